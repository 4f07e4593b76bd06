//go:build linux && race

package faults_test

// raceDetector reports whether the race detector is on. Programs then take many
// times the memory and time.
const raceDetector = true
