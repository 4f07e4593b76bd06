// Package http2 has this process's HTTP/2 servers announce extended CONNECT (RFC
// 8441), which has browsers open WebSockets on the connection that carries the
// page. Import it for that effect in the main package:
//
//	import _ "example.com/wsproxy/http2"
//
// # Every route
//
// The announcement is process-wide and holds for whole connections: browsers
// then open every WebSocket to the server over HTTP/2, whichever route it is for.
// A route that this module's Proxy does not serve has to understand extended
// CONNECT too. Most WebSocket libraries for Go do not, and browsers do not fall
// back to HTTP/1.1: the WebSocket fails, in Firefox with code 1006. Import this
// package only if Proxies serve all WebSockets of all HTTP/2 servers of the
// process.
//
// # How it works
//
// net/http and golang.org/x/net/http2 know no other way than http2xconnect=1 in
// the environment variable GODEBUG, which they read once, when the program
// starts (golang/go#53208, golang/go#71128). This package adds the setting to the
// variable before that, unless the variable has the setting already:
// http2xconnect=0 in the environment turns this package off. Child processes
// inherit the variable.
//
// Packages are initialized in the order of their import paths, as far as their
// imports allow. This package is therefore early enough if its path sorts before
// "golang.org/x/net/http2" and "net/http". If a fork or a vendored copy has a path
// that does not, wsproxy.New logs a warning. The variable can then be set in the
// environment instead, without this package.
package http2

import (
	"os"
	"strings"

	"example.com/wsproxy/internal/xconnect"
)

func init() {
	xconnect.Wanted = true
	setting := os.Getenv("GODEBUG")
	if strings.Contains(setting, "http2xconnect=") {
		return
	}
	if setting != "" {
		setting += ","
	}
	os.Setenv("GODEBUG", setting+"http2xconnect=1")
}
