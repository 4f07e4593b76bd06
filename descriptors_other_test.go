//go:build !unix

package wsproxy_test

import "math"

// descriptorLimit is how many descriptors the process may have.
func descriptorLimit() uint64 { return math.MaxUint64 }
