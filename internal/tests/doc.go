// Package tests has no code. The packages below it test wsproxy through its
// public API, over real sockets unless a test needs a fake clock. Their helpers
// are in internal/testkit. Unit tests are beside their sources, in the root
// and in the other packages below internal.
//
//	package    shows
//	handshake  from the request to the 101, refusals and errors included
//	headers    which header fields and paths reach the upstream
//	tunnel     how bytes, half-closes and resets cross, timeouts, memory, hooks
//	frames     Close and Ping frames of the proxy, limits, malformed frames
//	plain      ordinary requests: bodies, trailers, timeouts, connections
//	upstream   several servers: failover, health, retries, discovery
//	options    the effect of each option, and what New refuses
//	lifecycle  Shutdown, Close, Stats, Tunnels, logging
//	soak       many tunnels that end in every way and leave nothing behind
//
// Name a file for what it shows and a test for what happens:
// handshake/refusal_test.go, TestARefusalIsForwardedAsItArrives.
package tests
