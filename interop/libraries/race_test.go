//go:build race

package libraries_test

// largest is the size of the largest message. With the race detector the
// libraries mask and compress too slowly for 16 MiB.
const largest = 1 << 20
