// Command wsproxy is a WebSocket reverse proxy, ready to run: what nginx does
// with its map of $http_upgrade to $connection_upgrade, as one process.
//
//	wsproxy [flags] [target...]
//
// A target is an http, https, ws or wss URL, or nginx's form for a unix
// socket, http://unix:/run/app.sock:/base. Upgrades are checked, asked of the
// target and relayed both ways; every other request is proxied beside them.
// Without a target wsproxy proxies a demo upstream of its own, a page that
// shows echo, round-trip times, the tunnels that are open and the header
// fields that arrive.
//
//	wsproxy                                          # the demo on http://localhost:8080
//	wsproxy http://localhost:3000                    # a proxy in front of port 3000
//	wsproxy -policy least-tunnels http://a:3000 http://b:3000
//	wsproxy -policy hash-ip -dns 5s http://chat.default.svc.cluster.local.:3000
//	wsproxy -listen :443 -tls-cert cert.pem -tls-key key.pem \
//		-origin https://example.com -read-timeout 300s http://unix:/run/app.sock
//
// Once it listens, it says on standard output where, with the real port where
// -listen asked for port 0, and which servers it proxies. It logs to standard
// error.
//
// # Several servers
//
// Several targets are servers for the same requests, so all have the same
// scheme, path and query. The first also gives them its name: what -target-host
// sends, and what the certificates of https targets are for. With -dns the
// servers are all addresses of the one target's name instead, as they are now
// and after each interval; wsproxy does not start if the first lookup fails,
// and keeps the last servers where a later one does.
//
// A request that fails before its response goes to the next server, as
// [wsproxy.WithUpstream] has it. -policy, -max-fails, -fail-timeout, -max-tries
// and -retry-status are of no effect with a single server, as in nginx, so that
// a list of targets may shrink to one: there is no choice, and the only server
// is never down.
//
// # Flags
//
// wsproxy -h has more on each, and the nginx directive that it answers to where
// there is one:
//
//	-listen address          where to listen (default localhost:8080)
//	-tls-cert, -tls-key file serve https and wss with this certificate and key
//	-connect-timeout d       connecting to the target, TLS included (60s)
//	-read-timeout d          silence, of a response or of a whole tunnel (60s)
//	-send-timeout d          a write that makes no progress (60s)
//	-body-timeout d          a client's silence within the body of a request (60s)
//	-close-timeout d         the second side of a tunnel after the first, and
//	                         both after a Close of the proxy's (10s)
//	-max-lifetime d          a whole tunnel (0: no limit)
//	-ping interval           ping an end that is silent for so long (0: never)
//	-ping-timeout d          an end that stays silent after a ping (10s)
//	-max-tunnels n           tunnels at once (0: no limit)
//	-max-tunnels-per-ip n    tunnels at once of a client address (0: no limit)
//	-max-message-size bytes  a message, either way (0: no limit)
//	-max-header-bytes bytes  a request's line and header (65536)
//	-policy name             round-robin, least-tunnels, random2, hash-ip or
//	                         hash-uri (round-robin)
//	-max-fails n             failures that take a server down (1; 0: never)
//	-fail-timeout d          within what time, and for how long (10s)
//	-max-tries n             servers that one request is sent to (3; 0: all)
//	-retry-status status     a status that sends a request to the next server;
//	                         repeatable
//	-dns interval            use all addresses of the target's name (0: no)
//	-keep-alive              reuse connections to the target for plain requests
//	-origin pattern          take upgrades from this origin alone; repeatable
//	-trusted-proxy prefix    believe forwarding fields of these peers; repeatable
//	-target-host             send the target's host as Host, not the client's
//	-header "Name: value"    set a field of every request; repeatable
//	-detached                keep no goroutine of the server's for a tunnel
//	-drain d                 how long tunnels may take to end on shutdown (30s)
//	-log level               debug, info, warn or error (info)
//	-version                 print the versions of wsproxy and of Go
//
// Flags go before the targets. An empty value after the colon of -header
// removes the field. A timeout of 0 is none, but -drain 0 cuts at once.
//
// # Signals
//
// SIGINT or SIGTERM begins the drain: wsproxy stops listening and sends both
// ends of every tunnel a Close frame with code 1001, "shutting down". Tunnels
// end when both have answered; one that does not answer within -close-timeout
// is cut, and when -drain is over so is all that is left, plain requests too. A
// second signal cuts at once.
//
// # Exit status
//
//	0  everything ended in time
//	1  the drain cut something, or wsproxy could not start: a bad target, a
//	   busy port, a missing certificate
//	2  the flags or arguments make no sense
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
)

func main() {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	os.Exit(run(signals, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the command, from its arguments to its exit status.
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

// version names the module's version, "(devel)" for a build that has none, and
// Go's.
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
		if line != last { // of -max-message-size, which is two of New's limits
			fmt.Fprintln(w, "wsproxy: "+line)
		}
		last = line
	}
}

// serve proxies until a signal has ended it. An error is why it could not
// start or go on, or what the drain had to cut.
func (s *settings) serve(signals <-chan os.Signal, stdout, stderr io.Writer) error {
	if s.bad != nil {
		return s.bad
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: s.level}))
	slog.SetDefault(log) // where Upstream.Watch logs
	var watching sync.WaitGroup
	defer watching.Wait()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()

	v := &service{settings: s, log: log}
	options := append(s.options, wsproxy.WithLogger(log), wsproxy.WithHooks(wsproxy.Hooks{OnClose: v.count}))
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
			watching.Go(func() { u.Watch(ctx, resolver) })
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

// url is where a browser finds what listens on l, by the name that -listen
// gave it.
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
	requests sync.Map // connections with a plain request or a handshake under way
	draining atomic.Bool
	cut      atomic.Int64 // tunnels that did not end in order during the drain
}

// newServer returns the server in front of the proxy. It has no WriteTimeout
// and no ReadTimeout, which would cut plain streams in the middle: the proxy
// bounds their silence instead.
func (v *service) newServer() *http.Server {
	// Upgrades need HTTP/1.1, so nothing else is offered. NextProtos alone would
	// not do, as ServeTLS adds the h2 of a server's default Protocols.
	var http1 http.Protocols
	http1.SetHTTP1(true)
	return &http.Server{
		Handler:           v.proxy,
		MaxHeaderBytes:    v.maxHeader,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       75 * time.Second, // nginx's keepalive_timeout
		Protocols:         &http1,
		TLSConfig:         &tls.Config{NextProtos: []string{"http/1.1"}},
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

// count is the hook that notes which tunnels the drain cut.
func (v *service) count(_ *wsproxy.Tunnel, e wsproxy.Ending) {
	if v.draining.Load() && errors.Is(e.Err, wsproxy.ErrCut) {
		v.cut.Add(1)
	}
}

// drain lets what is under way end until -drain is over or another signal
// comes. Its error says what was cut then, or by the close timeout before.
func (v *service) drain(signals <-chan os.Signal) error {
	v.draining.Store(true)
	v.log.Info("draining; another signal cuts at once", "tunnels", v.proxy.Stats().Live, "for", v.wait)
	ctx, stop := context.WithCancelCause(context.Background())
	defer stop(nil)
	ctx, cancel := context.WithTimeoutCause(ctx, v.wait, fmt.Errorf("still open after %v", v.wait))
	defer cancel()
	go func() {
		select {
		case <-signals:
			stop(errors.New("a second signal came"))
		case <-ctx.Done():
		}
	}()

	// http.Server.Shutdown knows nothing of hijacked connections, and
	// Proxy.Shutdown nothing of plain requests. Both at once: the one closes
	// the listener while the other refuses what is still on its way in.
	unfinished := make(chan int, 1)
	go func() {
		n := 0
		if v.server.Shutdown(ctx) != nil {
			v.requests.Range(func(any, any) bool { n++; return true })
			v.server.Close()
		}
		unfinished <- n
	}()
	v.proxy.Shutdown(ctx) // an error may be about a handshake, which is a request
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
