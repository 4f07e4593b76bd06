// Package k6 fixes the version of k6 that the benchmark builds for -k6. It is a
// separate module, which keeps k6's dependencies out of the benchmark's.
package k6
