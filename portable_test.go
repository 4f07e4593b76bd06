//go:build wsproxy_portable || !unix

package wsproxy_test

// portable reports whether sockets are read as any other connection is.
const portable = true
