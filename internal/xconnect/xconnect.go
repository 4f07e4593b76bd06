// Package xconnect passes on what a program has asked for. It imports nothing,
// so that it does not delay the init functions of its importers.
package xconnect

// Wanted is true if the program imports example.com/wsproxy/http2.
var Wanted bool
