package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// sockets are what the command listens on.
type sockets struct {
	listeners []net.Listener
	admin     net.Listener // the socket named admin that systemd has passed; nil without one
	passed    bool         // systemd has passed the listeners
}

// open listens on the sockets that systemd has passed, or else on -listen.
func (s *settings) open() (opened sockets, err error) {
	if opened, err = passedSockets(); err != nil {
		return sockets{}, err
	}
	if opened.passed = len(opened.listeners) > 0; opened.passed {
		return opened, nil
	}
	var config net.ListenConfig
	if s.reusePort {
		config.SetMultipathTCP(false) // steerAway cannot act on such sockets
		config.Control = func(_, _ string, c syscall.RawConn) (err error) {
			return errors.Join(c.Control(func(fd uintptr) { err = shareAddress(fd) }), err)
		}
	}
	l, err := config.Listen(context.Background(), "tcp", s.listen)
	if err != nil {
		opened.close()
		return sockets{}, err
	}
	if s.reusePort {
		balance(l)
	}
	opened.listeners = []net.Listener{l}
	return opened, nil
}

func (s sockets) close() {
	for _, l := range s.listeners {
		l.Close()
	}
	if s.admin != nil {
		s.admin.Close()
	}
}

// firstPassed is the first descriptor that systemd passes, its
// SD_LISTEN_FDS_START.
const firstPassed = 3

// passedSockets returns the sockets that systemd has opened for this process.
func passedSockets() (s sockets, err error) {
	names, err := passedNames()
	if err != nil {
		return sockets{}, err
	}
	for i, name := range names {
		l, err := listenerOn(firstPassed+i, name)
		switch {
		case err != nil:
		case name != "admin":
			s.listeners = append(s.listeners, l)
		case s.admin != nil:
			l.Close()
			err = errors.New(`LISTEN_FDNAMES: "admin" is the name of two sockets, want one`)
		default:
			s.admin = l
		}
		if err != nil {
			s.close()
			return sockets{}, err
		}
	}
	return s, nil
}

// passedNames returns the names of the sockets that are passed to this process
// by the protocol of sd_listen_fds(3). It unsets the variables.
func passedNames() ([]string, error) {
	pid, count, names := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_FDNAMES")
	for _, name := range []string{"LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		os.Unsetenv(name)
	}
	if pid == "" || count == "" {
		return nil, nil
	}
	switch n, err := strconv.Atoi(pid); {
	case err != nil:
		return nil, fmt.Errorf("LISTEN_PID: %q is not a process", pid)
	case n != os.Getpid():
		return nil, nil // they are for another process, such as the parent
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 || n > 1000 {
		return nil, fmt.Errorf("LISTEN_FDS: %q, want a number of sockets", count)
	}
	if names == "" {
		return make([]string, n), nil
	}
	all := strings.Split(names, ":")
	if len(all) != n {
		return nil, fmt.Errorf("LISTEN_FDNAMES: %q, want as many names as LISTEN_FDS, %d", names, n)
	}
	return all, nil
}

// listenerOn returns a listener on a descriptor, which it closes.
func listenerOn(fd int, name string) (net.Listener, error) {
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if conn, err := net.FileConn(f); err == nil {
		peer := conn.RemoteAddr()
		conn.Close()
		if peer != nil {
			return nil, fmt.Errorf("LISTEN_FDS: descriptor %d, %q, is a connection, want Accept=no in the socket unit", fd, name)
		}
	}
	l, err := net.FileListener(f)
	if err == nil && (l.Addr().Network() == "unixpacket" || !listens(l)) {
		l.Close()
		err = errors.New("want ListenStream= in the socket unit")
	}
	if err != nil {
		return nil, fmt.Errorf("LISTEN_FDS: descriptor %d, %q, is not a listening stream socket: %w", fd, name, err)
	}
	return l, nil
}

// stepAside is the first step of a drain with -reuse-port. New connections go to
// the process that has replaced this one. stepAside waits for those whose TCP
// handshake is under way.
func (v *service) stepAside(ctx context.Context) {
	if !v.reusePort || v.sockets.passed {
		return
	}
	for _, l := range v.sockets.listeners {
		if !steerAway(l) {
			return
		}
	}
	ctx, cancel := context.WithTimeout(ctx, young)
	defer cancel()
	<-ctx.Done()
}
