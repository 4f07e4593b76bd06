//go:build !race

package wsproxy

const raceEnabled = false
