//go:build !unix || wsproxy_portable

package wsproxy

import "net"

// Without readiness from the runtime, a socket is read and written like any other
// connection. The build tag lets a unix machine test that.

func newRawSource(net.Conn) source    { return nil }
func newRawSink(net.Conn, *flow) sink { return nil }
