//go:build !linux && !darwin && !dragonfly && !freebsd && !netbsd && !openbsd

package main

import (
	"errors"
	"net"
	"runtime"
)

func shareAddress(uintptr) error {
	return errors.New("-reuse-port: " + runtime.GOOS + " has no SO_REUSEPORT")
}

func steerAway(net.Listener) bool { return false }

func balance(net.Listener) {}
