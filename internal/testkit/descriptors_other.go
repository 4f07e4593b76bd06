//go:build !unix

package testkit

import "math"

// DescriptorLimit returns how many descriptors the process may open.
func DescriptorLimit() uint64 { return math.MaxUint64 }
