package main

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"example.com/wsproxy"
)

// url returns the URL of the listener l, with the host of -listen.
func (v *service) url(l net.Listener) string {
	scheme, note := "http://", ""
	if v.cert != "" {
		scheme = "https://"
	}
	if l.Addr().Network() == "unix" {
		return scheme + "unix:" + l.Addr().String()
	}
	host, port, _ := net.SplitHostPort(l.Addr().String())
	if !v.sockets.passed {
		host, _, _ = net.SplitHostPort(v.listen)
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host, note = "localhost", " (on every address)"
	}
	return scheme + net.JoinHostPort(host, port) + note
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
	config := &tls.Config{NextProtos: names}
	if v.pair != nil {
		config.GetCertificate = v.pair.get
	}
	server := &http.Server{
		Handler:           v.noting(v.handler()),
		MaxHeaderBytes:    v.maxHeader,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       75 * time.Second, // nginx's keepalive_timeout
		Protocols:         &protocols,
		HTTP2:             wsproxy.HTTP2Config(),
		TLSConfig:         config,
		ErrorLog:          slog.NewLogLogger(v.log.Handler(), slog.LevelWarn),
		ConnState:         v.connState,
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, conn)
		},
	}
	server.RegisterOnShutdown(v.closeFresh)
	return server
}

// connState keeps track of the connections that the drain is about.
func (v *service) connState(conn net.Conn, state http.ConnState) {
	v.requests.Delete(conn)
	switch state {
	case http.StateNew:
		v.fresh.Store(conn, time.Now())
	case http.StateActive: // net/http may still drop the request, see noting
		v.requests.Store(conn, nil)
	default:
		v.fresh.Delete(conn)
	}
}
