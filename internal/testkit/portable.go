//go:build wsproxy_portable || !unix

package testkit

// Portable reports whether the proxy reads sockets as it reads any other
// connection.
const Portable = true
