// Package metrics_test compares the metrics of wsdebug, wsprom and wsotel with each
// other, with a load generator's own counts, and with the results of Prometheus's
// queries.
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
