package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"example.com/wsproxy"
)

// policies are the values of -policy.
var policies = map[string]func() wsproxy.Policy{
	"round-robin":   wsproxy.RoundRobin,
	"least-tunnels": wsproxy.LeastTunnels,
	"random2":       wsproxy.Random2,
	"hash-ip":       wsproxy.HashByClientIP,
	"hash-uri": func() wsproxy.Policy {
		return wsproxy.HashBy(func(r *http.Request) string { return r.URL.RequestURI() })
	},
}

// A place is a parsed target: a server, and the path and query to prepend.
type place struct {
	host, port          string // "" for a unix socket
	addr                string // for wsproxy.Server
	scheme, path, query string
}

// placeOf parses a target that New accepts.
func placeOf(target string) place {
	_, rest, _ := strings.Cut(target, "://")
	socket, unix := strings.CutPrefix(rest, "unix:")
	socket, _, _ = strings.Cut(socket, ":")
	u, err := url.Parse(withoutSocket(target))
	if err != nil {
		return place{} // New has refused it
	}
	p := place{scheme: u.Scheme, path: strings.TrimSuffix(u.EscapedPath(), "/"), query: u.RawQuery}
	switch p.scheme {
	case "ws":
		p.scheme = "http"
	case "wss":
		p.scheme = "https"
	}
	if unix {
		p.addr = "unix:" + socket
		return p
	}
	p.host = u.Hostname()
	p.port = cmp.Or(u.Port(), map[string]string{"http": "80", "https": "443"}[p.scheme])
	p.addr = net.JoinHostPort(p.host, p.port)
	return p
}

// withoutSocket returns target with localhost in place of a unix socket. With
// several servers the socket is one of the servers, and the target is not
// dialed.
func withoutSocket(target string) string {
	scheme, rest, _ := strings.Cut(target, "://")
	if socket, unix := strings.CutPrefix(rest, "unix:"); unix {
		_, base, _ := strings.Cut(socket, ":")
		rest = "localhost" + base
	}
	return scheme + "://" + rest
}

// checkTargets returns New's error for each bad target. If there are none, it
// returns an error for each target that does not match the first.
func checkTargets(targets []string) (bad, mismatched []error) {
	for _, target := range targets {
		if _, err := wsproxy.New(target); err != nil {
			bad = append(bad, err)
		}
	}
	if bad != nil || len(targets) < 2 {
		return bad, nil
	}
	first := placeOf(targets[0])
	for _, target := range targets[1:] {
		p := placeOf(target)
		for _, part := range []struct{ name, own, want string }{
			{"scheme", p.scheme, first.scheme},
			{"path", p.path, first.path},
			{"query", p.query, first.query},
		} {
			if part.own != part.want {
				mismatched = append(mismatched, fmt.Errorf("target %q has another %s than the first, want that of %q",
					withoutQuery(target), part.name, withoutQuery(targets[0])))
			}
		}
	}
	return nil, mismatched
}

// withoutQuery returns target without its query, which may be a secret.
func withoutQuery(target string) string {
	target, _, _ = strings.Cut(target, "?")
	return target
}

// checkUpstream checks the flags about the servers.
func (s *settings) checkUpstream() (errs []error) {
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if policies[s.policy] == nil {
		fail("-policy: %q is not a policy, want one of %s", s.policy, strings.Join(slices.Sorted(maps.Keys(policies)), ", "))
	}
	if s.maxFails < 0 {
		fail("-max-fails: \"%d\" is negative, want a number or 0 for never", s.maxFails)
	}
	if s.failTimeout <= 0 {
		fail("-fail-timeout: %q is not positive, want a duration such as 10s", s.failTimeout)
	}
	switch routes := s.allRoutes(); {
	case s.dns < 0:
		fail("-dns: %q is negative, want an interval or 0 for none", s.dns)
	case s.dns == 0:
	case len(s.targets) > 1 || routes == nil:
		fail("-dns: %d targets, want one, whose name to look up", len(s.targets))
	case !slices.ContainsFunc(routes, func(r route) bool { return !isUnix(r.targets[0]) }):
		fail("-dns: target %q is a unix socket, want a target with a host name", withoutQuery(routes[0].targets[0]))
	}
	return errs
}

func isUnix(target string) bool { return strings.Contains(target, "://unix:") }

// upstreamOf returns the Upstream of a route's targets and, with -dns, its
// resolver. Both are nil for a single target without -dns.
func (s *settings) upstreamOf(ctx context.Context, targets []string, signals <-chan os.Signal) (*wsproxy.Upstream, wsproxy.Resolver, error) {
	like := wsproxy.Server{MaxFails: s.maxFails, FailTimeout: s.failTimeout}
	if s.maxFails == 0 {
		like.MaxFails = wsproxy.NeverDown
	}
	var servers []wsproxy.Server
	var resolver wsproxy.Resolver
	switch {
	case s.dns > 0 && !isUnix(targets[0]):
		p := placeOf(targets[0])
		port, _ := strconv.Atoi(p.port)
		resolver = wsproxy.DNS{Name: p.host, Port: port, Interval: s.dns, Server: like}
		var err error
		if servers, err = firstLookup(ctx, resolver, signals); err != nil {
			return nil, nil, err
		}
	case len(targets) > 1:
		for _, target := range targets {
			server := like
			server.Addr = placeOf(target).addr
			servers = append(servers, server)
		}
	default:
		return nil, nil, nil
	}
	u, err := wsproxy.NewUpstream(policies[s.policy](), servers...)
	return u, resolver, err
}

// firstLookup calls r.Resolve. It returns an error if a signal arrives first,
// because a lookup can take long if the name server does not respond.
func firstLookup(ctx context.Context, r wsproxy.Resolver, signals <-chan os.Signal) (servers []wsproxy.Server, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	found := make(chan struct{})
	go func() {
		servers, _, err = r.Resolve(ctx)
		close(found)
	}()
	select {
	case <-found:
		return servers, err
	case <-signals:
		cancel()
		<-found
		return nil, errors.New("a signal arrived before wsproxy had started")
	}
}

// names returns the targets of a route, and with -dns their addresses, for the
// start line.
func (s *settings) names(targets []string, u *wsproxy.Upstream) string {
	var names []string
	for _, target := range targets {
		names = append(names, withoutQuery(target))
	}
	line := strings.Join(names, ", ")
	if s.dns > 0 && u != nil {
		var addrs []string
		for _, server := range u.Servers() {
			addrs = append(addrs, server.Addr)
		}
		line += " (now " + strings.Join(addrs, ", ") + ")"
	}
	return line
}
