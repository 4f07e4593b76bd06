package testkit

import "math/rand/v2"

// Zeros is an endless reader of zeros.
type Zeros struct{}

func (Zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// Noise returns n pseudo-random bytes, different ones for each seed.
func Noise(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}
