//go:build !race

package libraries_test

// largest is the size of the largest message.
const largest = 16 << 20
