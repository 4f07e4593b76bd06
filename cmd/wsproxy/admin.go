package main

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"strconv"
	"time"

	"example.com/wsproxy/wsdebug"
)

// adminAddr returns the address that a value of -admin means. Unlike that of
// -listen, an empty host is this machine alone.
func adminAddr(value string) (string, error) {
	if _, err := strconv.ParseUint(value, 10, 16); err == nil {
		value = ":" + value
	}
	host, port, err := net.SplitHostPort(value)
	if err != nil || port == "" {
		return "", fmt.Errorf("-admin: %q, want a port or an address such as localhost:9090", value)
	}
	if host == "" {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port), nil
}

// An admin is the server of -admin.
type admin struct {
	listener net.Listener
	server   *http.Server
}

// newAdmin listens on the socket named admin that systemd has passed, or else on
// -admin. It returns nil without both.
func (v *service) newAdmin() (*admin, error) {
	l := v.sockets.admin
	if l == nil {
		if v.adminAddr == "" {
			return nil, nil
		}
		var err error
		if l, err = net.Listen("tcp", v.adminAddr); err != nil {
			return nil, fmt.Errorf("-admin: %w", err)
		}
	}
	h := v.adminHandler()
	if tcp, ok := l.Addr().(*net.TCPAddr); ok && tcp.IP.IsLoopback() {
		h = againstRebinding(v.adminAddr, h)
	} else if ok {
		v.log.Warn("-admin serves other machines, without a password", "address", l.Addr().String())
	}
	return &admin{l, &http.Server{
		Handler:           h,
		MaxHeaderBytes:    64 << 10,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      time.Minute, // to which net/http/pprof adds the time of a profile
		IdleTimeout:       75 * time.Second,
		ErrorLog:          slog.NewLogLogger(v.log.Handler(), slog.LevelWarn),
	}}, nil
}

// url returns the URL that the start line shows.
func (a *admin) url() string {
	if a.listener.Addr().Network() == "unix" {
		return "http://unix:" + a.listener.Addr().String()
	}
	return "http://" + a.listener.Addr().String() + "/"
}

func (a *admin) serve() {
	if a != nil {
		go a.server.Serve(a.listener)
	}
}

func (a *admin) close() {
	if a != nil {
		a.server.Close()
		a.listener.Close() // if it was never served
	}
}

func (v *service) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/{$}", wsdebug.HandlerOf(v.named()))
	mux.Handle("GET /metrics", wsdebug.MetricsOf(v.named()...))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		io.WriteString(w, "ok\n")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		if v.draining.Load() {
			http.Error(w, "draining", http.StatusServiceUnavailable)
			return
		}
		io.WriteString(w, "ready\n")
	})
	if v.pprof {
		// Without /debug/pprof/cmdline, because -header and a target's query may
		// contain secrets.
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return mux
}

// named returns the proxies as package wsdebug shows them.
func (v *service) named() (proxies []wsdebug.Named) {
	for _, m := range v.routes {
		proxies = append(proxies, wsdebug.Named{Name: m.pattern, Proxy: m.proxy, Upstream: m.upstream})
	}
	return proxies
}

// againstRebinding refuses requests to h from pages of other sites, as ownHosts
// does for the demo. An address that other machines reach has any number of names,
// so it is not checked there.
func againstRebinding(address string, h http.Handler) http.Handler {
	name, _, _ := net.SplitHostPort(address)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !ownHost(r.Host, name) {
			http.Error(w, "-admin does not serve the host "+strconv.Quote(r.Host)+
				", want localhost, an IP address or the host of -admin", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}
