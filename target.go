package wsproxy

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"example.com/wsproxy/internal/syntax"
)

// A target is the parsed target of a Proxy.
type target struct {
	url     *url.URL // for ProxyRequest.SetURL: http or https, host, path, query
	network string   // "tcp" or "unix"
	addr    string   // host:port, or the path of a socket
	tls     *tls.Config
}

// parseTarget parses the target of New. It reports every mistake, in one
// joined error.
func parseTarget(s string) (*target, error) {
	scheme, rest, ok := strings.Cut(s, "://")
	if at := strings.LastIndexByte(s, '@'); at >= 0 { // keep credentials out of errors
		start := 0
		if ok && at > len(scheme) {
			start = len(scheme) + len("://")
		}
		s = s[:start] + "…" + s[at:]
	}
	if !ok {
		return nil, fmt.Errorf("wsproxy: target %q has no scheme, want one such as %q", s, "http://localhost:3000")
	}
	if path, unix := strings.CutPrefix(rest, "unix:"); unix {
		return parseUnixTarget(s, scheme, path)
	}
	u, err := url.Parse(scheme + "://" + rest)
	if err != nil && strings.Contains(rest, "@") { // err may quote part of the credentials
		return nil, fmt.Errorf("wsproxy: target %q has credentials or an unescaped @, want %%40 for @", s)
	}
	if err != nil {
		var parse *url.Error
		if errors.As(err, &parse) {
			err = parse.Err
		}
		return nil, fmt.Errorf("wsproxy: target %q: %w", s, err)
	}
	var errs []error
	fail := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("wsproxy: target %q "+format, append([]any{s}, args...)...))
	}
	httpScheme, err := upstreamScheme(s, u.Scheme)
	errs = append(errs, err)
	if !syntax.IsHost(u.Host) {
		fail("has host %q, want a name or an address with an optional port", u.Host)
	}
	if u.User != nil {
		fail("has credentials, want them in WithHeader(%q, …)", "Authorization")
	}
	if u.Fragment != "" {
		fail("has fragment %q, drop %q", u.Fragment, "#"+u.EscapedFragment())
	}
	if strings.Contains(u.RawQuery, " ") {
		fail("has a space in its query, want %%20")
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	t := &target{network: "tcp", url: &url.URL{Scheme: httpScheme, Host: u.Host,
		Path: u.Path, RawPath: u.RawPath, RawQuery: u.RawQuery}}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[httpScheme]
	}
	t.addr = net.JoinHostPort(u.Hostname(), port)
	return t, nil
}

// parseUnixTarget parses a unix socket in nginx's form,
// http://unix:/run/app.sock:/base. A colon ends the path of the socket.
func parseUnixTarget(s, scheme, rest string) (*target, error) {
	httpScheme, schemeErr := upstreamScheme(s, strings.ToLower(scheme))
	socket, base, _ := strings.Cut(rest, ":")
	var socketErr, baseErr error
	if !strings.HasPrefix(socket, "/") {
		socketErr = fmt.Errorf("wsproxy: target %q has socket %q, want an absolute path", s, socket)
	}
	u, err := url.Parse(base)
	if err != nil || u.Host != "" || base != "" && !strings.HasPrefix(base, "/") || u.Fragment != "" || strings.Contains(u.RawQuery, " ") {
		baseErr = fmt.Errorf("wsproxy: target %q has base %q after the socket, want a path", s, base)
	}
	if err := errors.Join(schemeErr, socketErr, baseErr); err != nil {
		return nil, err
	}
	u.Scheme, u.Host = httpScheme, "localhost"
	return &target{url: u, network: "unix", addr: socket}, nil
}

// upstreamScheme returns "http" or "https" for the scheme of target.
func upstreamScheme(target, scheme string) (string, error) {
	switch scheme {
	case "http", "ws":
		return "http", nil
	case "https", "wss":
		return "https", nil
	}
	return "", fmt.Errorf("wsproxy: target %q has scheme %q, want http, https, ws or wss", target, scheme)
}

// useTLS sets the TLS configuration of an https target. It offers only
// HTTP/1.1, which an upgrade needs, and verifies the target's host name unless
// cfg names another.
func (t *target) useTLS(cfg *tls.Config) {
	if t.url.Scheme != "https" {
		return
	}
	t.tls = &tls.Config{}
	if cfg != nil {
		t.tls = cfg.Clone()
	}
	t.tls.NextProtos = []string{"http/1.1"}
	if t.tls.ServerName == "" {
		t.tls.ServerName = t.url.Hostname()
	}
}
