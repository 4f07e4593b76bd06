// Package wsdebug shows what proxies of package wsproxy do: as a page for people
// and as metrics for Prometheus. It needs the standard library alone.
//
// The page shows paths and client addresses, which are personal data. The program
// that mounts a handler of this package decides who may reach it.
package wsdebug

import "example.com/wsproxy"

// A Named is one of several proxies that are shown together.
type Named struct {
	Name     string // distinguishes it from the others, as a route's path does
	Proxy    *wsproxy.Proxy
	Upstream *wsproxy.Upstream // of WithUpstream; nil if Proxy has none
}
