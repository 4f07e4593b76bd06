//go:build unix && !wsproxy_portable

package wsproxy_test

// portable reports whether sockets are read as any other connection is.
const portable = false
