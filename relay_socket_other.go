//go:build !unix || wsproxy_portable

package wsproxy

import "net"

// Where the runtime does not tell of readiness every connection is read as any
// other. The build tag lets a unix machine test that.

func newRawSource(net.Conn) source    { return nil }
func newRawSink(net.Conn, *flow) sink { return nil }
