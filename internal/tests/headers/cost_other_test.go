//go:build !unix

package headers_test

import "time"

var begun = time.Now()

// processorTime stands in for the function of other systems.
func processorTime() time.Duration { return time.Since(begun) }
