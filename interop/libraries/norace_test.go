//go:build !race

package libraries_test

// largest is the largest message.
const largest = 16 << 20
