// Package metrics_test holds the metrics of wsdebug, wsprom and wsotel against each
// other, against a load generator's own counts, and against what Prometheus makes
// of them.
package metrics_test

import (
	"flag"
	"testing"
	"time"

	"example.com/wsproxy/internal/testkit"
)

var soak = flag.Duration("soak", 2*time.Second, "how long the load under Prometheus lasts")

// patience bounds the waits of the load and for scrapes, many of which fail on a busy
// machine.
const patience = time.Minute

func TestMain(m *testing.M) { testkit.Main(m) }
