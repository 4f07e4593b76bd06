// Package tests has no code. The packages below it test wsproxy through its public
// API, one package for each area of its behavior, over real sockets unless a test
// needs a fake clock. What they share is in internal/testkit.
package tests
