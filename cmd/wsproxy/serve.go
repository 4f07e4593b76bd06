package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"

	"example.com/wsproxy"
)

// serve proxies until a signal arrives and the drain has ended. It returns an
// error if it could not start or continue, or if the drain cut something.
func (s *settings) serve(signals <-chan os.Signal, stdout, stderr io.Writer) error {
	if s.bad != nil {
		return s.bad
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: s.level}))
	var watching sync.WaitGroup
	defer watching.Wait()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()

	v := &service{settings: s, log: log}
	options := append(s.options, wsproxy.WithLogger(log), wsproxy.WithHooks(wsproxy.Hooks{OnOpen: v.opened}))
	var target, shown string
	var demo *demo
	if len(s.targets) == 0 {
		var err error
		if demo, err = newDemo(log, s.listen); err != nil {
			return fmt.Errorf("demo upstream: %w", err)
		}
		defer demo.close()
		target, shown = demo.url, "demo upstream"
	} else {
		u, resolver, err := s.upstream(ctx, signals)
		if err != nil {
			return err
		}
		if resolver != nil {
			watching.Go(func() {
				u.Watch(ctx, resolver, func(err error) { log.Warn("servers not found, keeping the last ones", "error", err) })
			})
		}
		target, shown = s.targets[0], s.shown(u)
		if u != nil {
			options = append(options, wsproxy.WithUpstream(u))
			target = withoutSocket(target)
		}
	}
	var err error
	if v.proxy, err = wsproxy.New(target, options...); err != nil {
		return err
	}
	if demo != nil {
		demo.serve(v.proxy)
	}
	v.server = v.newServer()
	if s.cert != "" {
		pair, err := tls.LoadX509KeyPair(s.cert, s.key)
		if err != nil {
			return fmt.Errorf("-tls-cert, -tls-key: %w", err)
		}
		v.server.TLSConfig.Certificates = []tls.Certificate{pair}
	}
	l, err := net.Listen("tcp", s.listen)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "wsproxy: %s -> %s\n", s.url(l), shown)

	failed := make(chan error, 1)
	go func() {
		if s.cert != "" {
			failed <- v.server.ServeTLS(l, "", "")
		} else {
			failed <- v.server.Serve(l)
		}
	}()
	select {
	case err := <-failed:
		v.proxy.Close()
		v.server.Close()
		return err
	case <-signals:
		err := v.drain(signals)
		<-failed // http.ErrServerClosed
		return err
	}
}

// A service is the command while it runs.
type service struct {
	*settings
	log      *slog.Logger
	proxy    *wsproxy.Proxy
	server   *http.Server
	requests sync.Map // connections with a plain request or a handshake in progress
	draining atomic.Bool
	cut      atomic.Int64 // tunnels that were cut during the drain
}
