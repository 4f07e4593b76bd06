// Package http2_test has other people's clients open WebSockets over HTTP/2 and
// HTTP/3 through wsproxy.
package http2_test

import (
	"testing"

	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/interop/internal/talk"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func TestHAProxyAsksOverHTTP2ForGosClient(t *testing.T) {
	f := talk.NewFront(t, "haproxy", testkit.Serve(t, talk.Server()))
	talk.Check(t, f, talk.Go(t, f.URL, nil))
}
