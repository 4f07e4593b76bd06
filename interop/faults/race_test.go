//go:build linux && race

package faults_test

// raceDetector has programs take many times the memory and time.
const raceDetector = true
