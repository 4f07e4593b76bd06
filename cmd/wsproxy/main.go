// Command wsproxy is a WebSocket reverse proxy. It does what nginx does with the
// recipe whose map sets $connection_upgrade.
//
//	wsproxy [flags] [target...]
//
// A target is an http, https, ws or wss URL, or a unix socket in nginx's form,
// http://unix:/run/app.sock:/base. wsproxy validates upgrades, forwards them to
// the target, and relays both ways. It proxies every other request, too.
// Without a target wsproxy proxies a demo upstream: a page that shows echo,
// round-trip times, the open tunnels and the header fields that arrive.
//
//	wsproxy                                          # the demo on http://localhost:8080
//	wsproxy http://localhost:3000                    # a proxy in front of port 3000
//	wsproxy -policy least-tunnels http://a:3000 http://b:3000
//	wsproxy -policy hash-ip -dns 5s http://chat.default.svc.cluster.local.:3000
//	wsproxy -listen :443 -tls-cert cert.pem -tls-key key.pem \
//		-origin https://example.com -read-timeout 300s http://unix:/run/app.sock
//
// When wsproxy listens, it prints its address and the servers on standard
// output. If -listen has port 0, the address has the actual port. It logs to
// standard error.
//
// # Several servers
//
// Several targets are servers for the same requests. They must have the same
// scheme, path and query. The host of the first target is the Host that
// -target-host sends, and the name in the certificates of https targets.
//
// With -dns the servers are all addresses of the name of a single target. They
// are looked up at the start and again after each interval. wsproxy does not
// start if the first lookup fails. If a later one fails, the servers stay the
// same.
//
// A request that fails before its response may be sent to the next server; see
// [wsproxy.WithUpstream]. With a single server -policy, -max-fails,
// -fail-timeout, -max-tries and -retry-status have no effect, as in nginx, so a
// list of targets may shrink to one. A single server never goes down.
//
// # Flags
//
// wsproxy -h explains each flag and names its nginx directive:
//
//	-listen address          where to listen (default localhost:8080)
//	-tls-cert, -tls-key file serve https and wss with this certificate and key
//	-http2                   serve HTTP/2 too, for pages and WebSockets; needs TLS
//	-connect-timeout d       connecting to the target, including TLS (60s)
//	-read-timeout d          idle time of a response or a tunnel (60s)
//	-send-timeout d          a write without progress (60s)
//	-body-timeout d          time between two reads of a request's body (60s)
//	-close-timeout d         the second side of a tunnel after the first, and
//	                         both after a Close frame from the proxy (10s)
//	-max-lifetime d          lifetime of a tunnel (0: no limit)
//	-ping interval           ping an end that sends nothing (0: never)
//	-ping-timeout d          time without data after a ping (10s)
//	-max-tunnels n           tunnels at once (0: no limit)
//	-max-tunnels-per-ip n    tunnels at once from a client address (0: no limit)
//	-max-message-size bytes  a message in either direction (0: no limit)
//	-max-header-bytes bytes  a request's line and header (65536)
//	-policy name             round-robin, least-tunnels, random2, hash-ip or
//	                         hash-uri (round-robin)
//	-max-fails n             failures that take a server down (1; 0: never)
//	-fail-timeout d          in what time, and for how long (10s)
//	-max-tries n             servers tried for one request (3; 0: all)
//	-retry-status status     try the next server after a response with this
//	                         status; repeatable
//	-dns interval            use all addresses of the target's name (0: no)
//	-keep-alive              reuse connections to the target for plain requests
//	-origin pattern          accept upgrades only from this origin; repeatable
//	-trusted-proxy prefix    trust forwarding fields of these peers; repeatable
//	-target-host             send the target's host, not the client's, as Host
//	-header "Name: value"    set a field of every request; repeatable
//	-detached                free the server's goroutine while a tunnel is open
//	-drain d                 time for tunnels to end on shutdown (30s)
//	-spread d                close tunnels evenly over this part of the drain (0)
//	-log level               debug, info, warn or error (info)
//	-version                 print the versions of wsproxy and of Go
//
// Flags go before the targets. -header with an empty value removes the field. A
// timeout of 0 means no limit, except that -drain 0 closes immediately.
//
// # Signals
//
// SIGINT or SIGTERM starts the drain. wsproxy stops listening and sends both
// ends of every tunnel a Close frame with code 1001, "shutting down". A tunnel
// ends when both have answered. A tunnel that has not ended within
// -close-timeout is closed immediately. When -drain expires or a second signal
// arrives, wsproxy closes all remaining tunnels and plain requests.
//
// With -spread the tunnels get their Close frames in random order and evenly
// over that time, with code 1012, "service restart", so that their clients do
// not reconnect all at once.
//
// # Exit status
//
//	0  everything ended in time
//	1  the drain closed a tunnel or a request early, or wsproxy could not
//	   start: a bad target, a busy port, a missing certificate
//	2  the flags or arguments are invalid
package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"example.com/wsproxy"
	_ "example.com/wsproxy/http2" // for -http2
)

func main() {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	os.Exit(run(signals, os.Args[1:], os.Stdout, os.Stderr))
}

// run runs the command and returns its exit status.
func run(signals <-chan os.Signal, args []string, stdout, stderr io.Writer) int {
	s, err := parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		usage(stdout)
		return 0
	case err != nil:
		complain(stderr, err)
		fmt.Fprintln(stderr, "usage: wsproxy [flags] [target...]; wsproxy -h explains the flags")
		return 2
	case s.version:
		fmt.Fprintln(stdout, version())
		return 0
	}
	if err := s.serve(signals, stdout, stderr); err != nil {
		complain(stderr, err)
		return 1
	}
	return 0
}

// version returns the versions of the module and of Go. The version of a module
// without one is "(devel)".
func version() string {
	module := "(devel)"
	if info, ok := debug.ReadBuildInfo(); ok {
		module = cmp.Or(info.Main.Version, module)
	}
	return "wsproxy " + module + " " + runtime.Version()
}

// complain prints a line for each of the errors that err joins.
func complain(w io.Writer, err error) {
	last := ""
	for line := range strings.SplitSeq(err.Error(), "\n") {
		line = inFlags.Replace(strings.TrimPrefix(line, "wsproxy: "))
		if line != last { // -max-message-size sets two options with the same error
			fmt.Fprintln(w, "wsproxy: "+line)
		}
		last = line
	}
}

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

// url returns the URL of the listener l, with the host of -listen.
func (s *settings) url(l net.Listener) string {
	scheme, note := "http://", ""
	if s.cert != "" {
		scheme = "https://"
	}
	host, _, _ := net.SplitHostPort(s.listen)
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host, note = "localhost", " (on every address)"
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return scheme + net.JoinHostPort(host, port) + note
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

// newServer returns the server in front of the proxy. It has no WriteTimeout
// and no ReadTimeout, because they would abort long plain streams. The proxy
// limits their idle time instead.
func (v *service) newServer() *http.Server {
	// Setting NextProtos is not enough: ServeTLS adds h2, which is among the default
	// Protocols.
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(v.http2)
	names := []string{"http/1.1"}
	if v.http2 {
		names = []string{"h2", "http/1.1"}
	}
	return &http.Server{
		Handler:           v.proxy,
		MaxHeaderBytes:    v.maxHeader,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       75 * time.Second, // nginx's keepalive_timeout
		Protocols:         &protocols,
		HTTP2:             wsproxy.HTTP2Config(),
		TLSConfig:         &tls.Config{NextProtos: names},
		ErrorLog:          slog.NewLogLogger(v.log.Handler(), slog.LevelWarn),
		ConnState: func(conn net.Conn, state http.ConnState) {
			if state == http.StateActive {
				v.requests.Store(conn, nil)
			} else {
				v.requests.Delete(conn)
			}
		},
	}
}

// opened is the hook for tunnels.
func (v *service) opened(*wsproxy.Tunnel, *http.Request) func(wsproxy.Ending) { return v.closed }

// closed counts the tunnels cut during the drain, but not those that reached the
// send timeout while they waited for their turn of -spread.
func (v *service) closed(e wsproxy.Ending) {
	if v.draining.Load() && errors.Is(e.Err, wsproxy.ErrCut) && e.Reason != wsproxy.ReasonSendTimeout {
		v.cut.Add(1)
	}
}

// drain waits for tunnels and requests to end until -drain expires or another
// signal arrives, and then cuts the rest. It returns an error if it has cut
// something, or if the close timeout has.
func (v *service) drain(signals <-chan os.Signal) error {
	v.draining.Store(true)
	v.log.Info("draining; another signal closes everything immediately", "tunnels", v.proxy.Stats().Live, "for", v.wait)
	ctx, stop := context.WithCancelCause(context.Background())
	defer stop(nil)
	ctx, cancel := context.WithTimeoutCause(ctx, v.wait, fmt.Errorf("still open after %v", v.wait))
	defer cancel()
	go func() {
		select {
		case <-signals:
			stop(errors.New("a second signal arrived"))
		case <-ctx.Done():
		}
	}()

	// http.Server.Shutdown ignores hijacked connections, and Proxy.Shutdown
	// ignores plain requests. Call both concurrently, so that upgrades that arrive
	// before the listener is closed are refused.
	unfinished := make(chan int, 1)
	go func() {
		n := 0
		if v.server.Shutdown(ctx) != nil {
			v.requests.Range(func(any, any) bool { n++; return true })
			v.server.Close()
		}
		unfinished <- n
	}()
	if v.spread > 0 { // Shutdown lets tunnels of other protocols go on until ctx is done
		v.proxy.Drain(ctx, v.spread, func(t *wsproxy.Tunnel) bool { return t.Protocol() == "websocket" })
	}
	v.proxy.Shutdown(ctx) // ignore the error: handshakes count as requests below
	var cut []string
	requests := <-unfinished
	if n := v.cut.Load(); n > 0 || requests > 0 {
		cut = append(cut, plural(int(n), "tunnel"))
	}
	if requests > 0 {
		cut = append(cut, plural(requests, "request"))
	}
	if cut == nil {
		return nil
	}
	why := context.Cause(ctx)
	if why == nil {
		why = errors.New("no answer to the Close frame within the close timeout")
	}
	return fmt.Errorf("cut %s: %w", strings.Join(cut, " and "), why)
}

func plural(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprint(n, " ", noun)
}
