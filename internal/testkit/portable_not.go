//go:build unix && !wsproxy_portable

package testkit

// Portable reports whether the proxy reads sockets as it reads any other
// connection.
const Portable = false
