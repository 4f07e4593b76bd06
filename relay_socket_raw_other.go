//go:build !unix

package wsproxy

import "net"

// unblock has nothing to do: only on unix does a duplicate of a descriptor
// share whether calls block.
func unblock(net.Conn) {}
