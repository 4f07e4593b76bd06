//go:build !windows

package wsproxy

import "syscall"

// resourceErrors say that this process or machine has run out of descriptors,
// memory or local ports.
var resourceErrors = []error{
	syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL,
}

// peerClosedErrors are of a write to a peer that has closed.
var peerClosedErrors = []error{syscall.EPIPE, syscall.ECONNRESET}
