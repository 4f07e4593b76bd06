package main

import "example.com/wsproxy/internal/frame"

// maskKey is the masking key of every frame. It is fixed, so that frames can be
// built in advance.
var maskKey = [4]byte{0x37, 0xfa, 0x21, 0x3d}

// payload returns the n bytes that every message of that size consists of.
func payload(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i*31 + i>>8)
	}
	return p
}

// clientFrame returns the masked frame with the payload of n bytes.
func clientFrame(n int) []byte {
	return frame.Append(nil, frame.Header{Fin: true, Opcode: frame.OpBinary, Masked: true, Key: maskKey}, payload(n))
}

// serverFrame returns the echo of clientFrame(n).
func serverFrame(n int) []byte {
	return frame.Append(nil, frame.Header{Fin: true, Opcode: frame.OpBinary}, payload(n))
}
