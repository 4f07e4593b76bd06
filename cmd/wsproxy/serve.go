package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
)

// serve proxies until a signal arrives and the drain has ended. It returns an
// error if it could not start or continue, or if the drain cut something.
func (s *settings) serve(signals <-chan os.Signal, stdout, stderr io.Writer) error {
	if s.bad != nil {
		return s.bad
	}
	log := slog.New(adviser{slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: s.level})})
	var watching sync.WaitGroup
	defer watching.Wait()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()

	v := &service{settings: s, log: log, access: newAccessLog(s.access, stdout, log, s.forwarded), endings: newEndings(log, s.hints)}
	defer v.endings.repeats.flush()
	for _, warning := range s.warnings {
		log.Warn(warning)
	}
	if s.cert != "" {
		var err error
		if v.pair, err = newKeyPair(s.cert, s.key, log); err != nil {
			return err
		}
	}
	signals = v.withoutHangups(ctx, signals)
	if err := v.trust(); err != nil {
		return err
	}
	end, err := v.open(ctx, signals, &watching)
	if err != nil {
		return err
	}
	defer end()
	v.server = v.newServer()
	if v.sockets, err = s.open(); err != nil {
		return err
	}
	defer v.sockets.close()
	admin, err := v.newAdmin()
	if err != nil {
		return err
	}
	defer admin.close()
	io.WriteString(stdout, v.started(admin))
	admin.serve()
	failed := make(chan error, len(v.sockets.listeners))
	for _, l := range v.sockets.listeners {
		go func() {
			if s.cert != "" {
				failed <- v.server.ServeTLS(l, "", "")
			} else {
				failed <- v.server.Serve(l)
			}
		}()
	}
	select {
	case err := <-failed:
		v.closeProxies()
		v.server.Close()
		return err
	case <-signals:
		return v.drain(signals, func() {
			for _, l := range v.sockets.listeners {
				l.Close()
			}
			for range v.sockets.listeners {
				<-failed // net.ErrClosed
			}
		})
	}
}

// started returns the lines for standard output: the URL and the servers of each
// route, and the URL of -admin.
func (v *service) started(a *admin) string {
	var lines strings.Builder
	for _, l := range v.sockets.listeners {
		for _, m := range v.routes {
			url, note, _ := strings.Cut(v.url(l), " ")
			if m.pattern != "/" {
				url += m.pattern
			}
			if note != "" {
				url += " " + note
			}
			fmt.Fprintf(&lines, "wsproxy: %s -> %s\n", url, m.shown)
		}
	}
	if a != nil {
		fmt.Fprintf(&lines, "wsproxy: admin: %s\n", a.url())
	}
	return lines.String()
}

// A service is the command while it runs.
type service struct {
	*settings
	log      *slog.Logger
	routes   []*mounted
	access   *accessLog // nil if it is off
	endings  *endings
	pair     *keyPair // nil without TLS
	sockets  sockets
	server   *http.Server
	fresh    sync.Map // connections without a whole request so far, with the time of their start
	requests sync.Map // connections with a plain request or a handshake in progress
	draining atomic.Bool
	cut      atomic.Int64 // tunnels that were cut during the drain
}
