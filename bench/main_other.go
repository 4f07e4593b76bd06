//go:build !linux

package main

import (
	"errors"
	"runtime"
)

func run(settings) error {
	return errors.New("measures by Linux's epoll, CPU clocks and smaps_rollup; it does not run on " + runtime.GOOS)
}

func runRole(string, []string) error { return run(settings{}) }
