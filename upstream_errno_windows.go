package wsproxy

import "syscall"

// resourceErrors are Windows' own: of syscall's names only invented numbers
// stand behind the others.
var resourceErrors = []error{
	syscall.Errno(10024), // WSAEMFILE
	syscall.Errno(10049), // WSAEADDRNOTAVAIL
	syscall.Errno(10055), // WSAENOBUFS, of ports too
	syscall.Errno(8),     // ERROR_NOT_ENOUGH_MEMORY
}

// peerClosedErrors are of a write to a peer that has closed.
var peerClosedErrors = []error{
	syscall.Errno(10053), // WSAECONNABORTED
	syscall.Errno(10054), // WSAECONNRESET
}
