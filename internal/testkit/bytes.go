package testkit

import "math/rand/v2"

// Zeros is a reader of zeros without end.
type Zeros struct{}

func (Zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// Noise returns n bytes, other ones for each seed.
func Noise(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}
