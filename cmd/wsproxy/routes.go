package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path"
	"strings"
	"sync"

	"example.com/wsproxy"
)

// A route is a pattern of http.ServeMux and its targets. The pattern of the target
// arguments is "/".
type route struct {
	pattern string
	targets []string
}

// A mounted is a route of the running command.
type mounted struct {
	pattern  string
	proxy    *wsproxy.Proxy
	upstream *wsproxy.Upstream // nil if there is a single server
	shown    string            // the targets, without secrets
}

// allRoutes returns the route of the target arguments and those of -route.
func (s *settings) allRoutes() []route {
	if len(s.targets) == 0 {
		return s.routes
	}
	return append([]route{{"/", s.targets}}, s.routes...)
}

// addRoute parses a value of -route. Its errors name no target, which package
// flag would print with its query.
func (s *settings) addRoute(value string) error {
	pattern, target, found := strings.Cut(value, "=")
	if !found {
		return errors.New("want /path=target")
	}
	s.routes = append(s.routes, route{pattern, []string{target}})
	return nil
}

// checkRoutes returns the errors of the patterns, and those of the targets
// of -route in bad.
func (s *settings) checkRoutes() (errs, bad []error) {
	seen := map[string]bool{"/": len(s.targets) > 0}
	mux := http.NewServeMux()
	register(mux, "/") // handler has one in any case
	for _, r := range s.routes {
		switch {
		case !strings.HasPrefix(r.pattern, "/"):
			errs = append(errs, fmt.Errorf("-route: %q does not begin with a slash, want /path=target", withoutQuery(r.pattern)))
		case strings.TrimSuffix(r.pattern, "/") != strings.TrimSuffix(path.Clean(r.pattern), "/"):
			errs = append(errs, fmt.Errorf("-route: %q is not a clean path, want %q", r.pattern, path.Clean(r.pattern)))
		case seen[r.pattern] && r.pattern == "/":
			errs = append(errs, errors.New(`-route: "/" has a target already, want another path or no target after the flags`))
		case seen[r.pattern]:
			errs = append(errs, fmt.Errorf("-route: %q is given twice, want it once", r.pattern))
		case r.pattern != "/":
			if err := register(mux, r.pattern); err != nil {
				errs = append(errs, fmt.Errorf("-route: %q: %w", r.pattern, err))
			}
		}
		seen[r.pattern] = true
		if _, err := wsproxy.New(r.targets[0]); err != nil {
			for line := range strings.SplitSeq(err.Error(), "\n") {
				bad = append(bad, fmt.Errorf("-route %q: %s", r.pattern, strings.TrimPrefix(line, "wsproxy: ")))
			}
		}
	}
	return errs, bad
}

// register adds pattern to mux, which panics if it is malformed or conflicts
// with an earlier one.
func register(mux *http.ServeMux, pattern string) (err error) {
	defer func() {
		if v := recover(); v != nil {
			first, conflict, _ := strings.Cut(fmt.Sprint(v), "\n")
			_, text, found := strings.Cut(first, fmt.Sprintf("parsing %q: ", pattern))
			if !found { // "/a/{y} matches the same requests as /a/{x}", or that both match some
				text, _, _ = strings.Cut(strings.TrimSpace(conflict), ".\n")
			}
			err = errors.New(text)
		}
	}()
	mux.Handle(pattern, http.NotFoundHandler())
	return nil
}

// open opens the proxies of all routes, or that of the demo. end closes the demo's
// upstream. Each goroutine that follows the addresses of a name until ctx is done
// is added to watching.
func (v *service) open(ctx context.Context, signals <-chan os.Signal, watching *sync.WaitGroup) (end func(), err error) {
	routes := v.allRoutes()
	if len(routes) == 0 {
		return v.openDemo()
	}
	for _, r := range routes {
		m := &mounted{pattern: r.pattern}
		u, resolver, err := v.upstreamOf(ctx, r.targets, signals)
		if err != nil {
			return nil, err
		}
		options := v.optionsFor(m)
		target := r.targets[0]
		if u != nil {
			options = append(options, wsproxy.WithUpstream(u))
			target = withoutSocket(target)
		}
		if m.proxy, err = wsproxy.New(target, options...); err != nil {
			return nil, err
		}
		if resolver != nil {
			watching.Go(func() {
				u.Watch(ctx, resolver, func(err error) {
					v.log.Warn("servers not found, keeping the last ones", "route", m.pattern, "error", err)
				})
			})
		}
		m.upstream, m.shown = u, v.names(r.targets, u)
		v.routes = append(v.routes, m)
	}
	return func() {}, nil
}

func (v *service) openDemo() (end func(), err error) {
	demo, err := newDemo(v.log, v.listen)
	if err != nil {
		return nil, fmt.Errorf("demo upstream: %w", err)
	}
	m := &mounted{pattern: "/", shown: "demo upstream"}
	if m.proxy, err = wsproxy.New(demo.url, v.optionsFor(m)...); err != nil {
		demo.close()
		return nil, err
	}
	v.routes = []*mounted{m}
	demo.serve(m.proxy)
	return demo.close, nil
}

func (v *service) optionsFor(m *mounted) []wsproxy.Option {
	return append(v.options[:len(v.options):len(v.options)], wsproxy.WithLogger(v.log), wsproxy.WithHooks(v.hooks(m)))
}

// handler returns the only proxy, or a mux if there are several. The mux redirects a path
// with "//" or a dot segment to the clean path.
func (v *service) handler() http.Handler {
	if len(v.routes) == 1 && v.routes[0].pattern == "/" {
		return v.routes[0].proxy
	}
	mux := http.NewServeMux()
	var all bool
	for _, m := range v.routes {
		mux.Handle(m.pattern, m.proxy)
		all = all || m.pattern == "/"
	}
	if !all {
		mux.HandleFunc("/", http.NotFound)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodConnect && r.URL.Path == "" { // to another host, which each proxy refuses
			v.routes[0].proxy.ServeHTTP(w, r)
			return
		}
		if r.Header.Get("Upgrade") != "" || r.Method == http.MethodConnect {
			if h, _ := mux.Handler(r); !isProxy(h) {
				v.unrouted(w, r, mux)
				return
			}
		}
		mux.ServeHTTP(w, r)
	})
}

func isProxy(h http.Handler) bool {
	_, ok := h.(*wsproxy.Proxy)
	return ok
}

// unrouted responds to upgrades that match no route, or that mux redirects.
func (v *service) unrouted(w http.ResponseWriter, r *http.Request, mux http.Handler) {
	s := &statusWriter{ResponseWriter: w}
	mux.ServeHTTP(s, r)
	err := errors.New("no -route matches the path")
	if location := s.Header().Get("Location"); location != "" {
		err = fmt.Errorf("redirected to %q, which WebSocket clients do not follow", withoutQuery(location))
	}
	v.access.refused("", r, s.status, err)
}

// A statusWriter keeps the status of a response.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// live returns the number of open tunnels.
func (v *service) live() (n int) {
	for _, m := range v.routes {
		n += m.proxy.Stats().Live
	}
	return n
}

// closeProxies closes all tunnels at once.
func (v *service) closeProxies() {
	for _, m := range v.routes {
		m.proxy.Close()
	}
}
