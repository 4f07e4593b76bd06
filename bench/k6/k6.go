// Package k6 pins the version of k6 that the benchmark builds for -k6. In a module
// of its own, k6's dependencies are not the benchmark's.
package k6
