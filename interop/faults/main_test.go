//go:build linux

// Package faults_test runs wsproxy in a separate process, between processes
// that are killed, frozen and starved, and on networks that lose packets, delay
// them, and break.
package faults_test

import (
	"encoding/json"
	"flag"
	"os"
	"testing"
	"time"

	"example.com/wsproxy/internal/testkit"
)

// roleVariable makes the test binary play the role in its value.
const roleVariable = "WSPROXY_FAULTS_ROLE"

// A role says what a process does.
type role struct {
	Kind   string // "proxy", "upstream", "host" or "link"
	Listen string // default: a free port on loopback
	TLS    bool

	Target                     string // of a proxy
	DNS                        string // the server that resolves the target's name
	Detached                   bool
	MaxTunnels                 int
	Connect, Read, Send, Close time.Duration // zero: the library's defaults
	PingInterval, PingTimeout  time.Duration

	ReadHeaderTimeout, ReadTimeout, WriteTimeout time.Duration // of http.Server

	Delay time.Duration // of a link
	Loss  float64
}

// A command is a test's request to a process, which replies with a report.
type command struct {
	Do   string // "report", "collect", "stacks", "ip" or "forward"
	Args []string
}

// A report describes the state of a process.
type report struct {
	Err         string // of the command
	Addr        string
	Certificate []byte // of the server, for TLS
	Goroutines  int
	Stacks      string
	Heap        int64 // in use, stacks included

	Live, Handshakes         int // of a proxy
	Opened                   int64
	FromClient, FromUpstream int64
	Endings                  map[string]int // by reason and error
	Log                      string

	Conns, Accepted int            // of an upstream
	Ends            map[string]int // of its WebSockets, by kind

	Lost int64 // packets, of a link
}

func TestMain(m *testing.M) {
	if s := os.Getenv(roleVariable); s != "" {
		var r role
		if err := json.Unmarshal([]byte(s), &r); err != nil {
			panic(err)
		}
		play(r)
	}
	flag.Set("test.parallel", "12") // most of these tests wait for timeouts
	testkit.Main(m)
}
