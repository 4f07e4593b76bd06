package wsproxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"

	"example.com/wsproxy/internal/origin"
	"example.com/wsproxy/internal/syntax"
)

// check refuses an upgrade that must not reach the upstream.
func (p *Proxy) check(w http.ResponseWriter, r *http.Request, protocol string) error {
	if err := checkRequest(r, protocol); err != nil {
		return err
	}
	if err := origin.Check(r, p.allowed); err != nil {
		return &refusal{kind: ErrForbiddenOrigin, status: http.StatusForbidden, cause: err}
	}
	if isStream(r) {
		return checkStreamable(w)
	}
	return checkHijackable(w)
}

// checkRequest checks a client's handshake as RFC 6455, section 4.2.1, requires
// it. For other protocols it checks what every upgrade requires.
func checkRequest(r *http.Request, protocol string) error {
	if !r.ProtoAtLeast(1, 1) {
		return badHandshake(http.StatusBadRequest, "%s, want HTTP/1.1", syntax.Quote(r.Proto))
	}
	if !syntax.IsHostField(r.Host) {
		return badHandshake(http.StatusBadRequest, "Host %s, want a host with an optional port", syntax.Quote(r.Host))
	}
	if isStream(r) {
		return checkStreamRequest(r, protocol)
	}
	if r.ContentLength != 0 || len(r.TransferEncoding) > 0 {
		return badHandshake(http.StatusBadRequest, "the request has a body, want none")
	}
	if err := checkTarget(r); err != nil {
		return badHandshake(http.StatusBadRequest, "%w", err)
	}
	if r.Method == http.MethodConnect && protocol != "websocket" {
		refused := refusedConnect(r)
		refused.kind = ErrBadHandshake
		return refused
	}
	if protocol != "websocket" {
		return nil
	}
	if r.Method != http.MethodGet {
		refused := badHandshake(http.StatusMethodNotAllowed, "method %s, want GET", syntax.Quote(r.Method))
		refused.header = http.Header{"Allow": {http.MethodGet}}
		return refused
	}
	if err := checkVersion(r); err != nil {
		return err
	}
	key := r.Header["Sec-Websocket-Key"]
	if len(key) != 1 {
		return badHandshake(http.StatusBadRequest, "%d Sec-WebSocket-Key fields, want 1", len(key))
	}
	if !isKey(key[0]) {
		return badHandshake(http.StatusBadRequest, "Sec-WebSocket-Key %s, want 16 bytes in base64", syntax.Quote(key[0]))
	}
	return nil
}

// checkVersion refuses a handshake for another version of the WebSocket protocol.
func checkVersion(r *http.Request) error {
	version := r.Header["Sec-Websocket-Version"]
	if len(version) == 1 && version[0] == "13" {
		return nil
	}
	refused := badHandshake(http.StatusUpgradeRequired, "Sec-WebSocket-Version %s, want 13", syntax.Quote(strings.Join(version, ", ")))
	refused.header = http.Header{"Sec-Websocket-Version": {"13"},
		"Upgrade": {"websocket"}, "Connection": {"close", "Upgrade"}} // RFC 9110, section 15.5.22
	return refused
}

// otherMethods is the Allow field of a refused CONNECT. The proxy forwards all
// methods except CONNECT.
const otherMethods = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT, TRACE"

// refusedConnect returns the refusal of a CONNECT. After a success the client
// would use the connection as a tunnel (RFC 9110, section 9.3.6), and the
// upstream would parse its bytes as requests (CVE-2026-56866, golang/go#81740).
func refusedConnect(r *http.Request) *refusal {
	protocol, extended := connectProtocol(r)
	if extended {
		return &refusal{status: http.StatusNotImplemented,
			cause: fmt.Errorf("CONNECT with :protocol %s, want one that the proxy forwards", syntax.Quote(protocol))}
	}
	return &refusal{status: http.StatusMethodNotAllowed, header: http.Header{"Allow": {otherMethods}},
		cause: errors.New("method CONNECT, want " + otherMethods)}
}

// checkTarget refuses a request target that the proxy, a rule in front of it
// and the upstream could interpret as different paths.
func checkTarget(r *http.Request) error {
	if r.RequestURI == "*" && r.Method != http.MethodOptions {
		return errors.New(`target "*", want a path`)
	}
	opaque, err := url.PathUnescape(r.URL.Opaque) // of "GET x:path"
	if err != nil {
		opaque = r.URL.Opaque
	}
	for _, path := range []string{r.URL.Path, opaque} {
		if syntax.HasDotSegment(path) {
			return fmt.Errorf(`path %s, want no segment "." or ".."`, syntax.Quote(path))
		}
	}
	return nil
}

// outgoingRequest returns the request to send to the upstream.
func (p *Proxy) outgoingRequest(ctx context.Context, in *http.Request, protocol string) *http.Request {
	bare := *in
	bare.Header = nil
	out := bare.Clone(ctx)
	out.Header = withRoom(in.Header, forwardingFields+len(p.policy.edits))
	out.Body, out.ContentLength, out.Close = nil, 0, false
	if isStream(in) {
		out.Method = http.MethodGet
	}
	removeHopByHop(out.Header)
	pr := &httputil.ProxyRequest{In: in, Out: out}
	p.Rewrite(pr)
	out = pr.Out
	if isStream(in) && out.Method == http.MethodConnect { // WithRewrite has replaced pr.Out with a copy of pr.In
		out.Method = http.MethodGet
	}
	if out.Host == "" { // as in net/http: the host of the URL
		out.Host = p.target.url.Host
	}
	removeHopByHop(out.Header)
	delete(out.Header, ":protocol")
	delete(out.Header, "Host")
	delete(out.Header, "Content-Length")
	out.Header["Connection"] = []string{ConnectionUpgrade(protocol)}
	out.Header["Upgrade"] = []string{protocol}
	if protocol == "websocket" {
		out.Header["Sec-Websocket-Key"] = in.Header["Sec-Websocket-Key"]
		if isStream(in) {
			out.Header["Sec-Websocket-Key"] = []string{newKey()}
		}
		out.Header["Sec-Websocket-Version"] = in.Header["Sec-Websocket-Version"]
	}
	return out
}

// withRoom returns a copy of h with room for more fields. Growing the map would
// cost as much as making it.
func withRoom(h http.Header, more int) http.Header {
	n := 0
	for _, values := range h {
		n += len(values)
	}
	all := make([]string, 0, n)
	wide := make(http.Header, len(h)+more)
	for name, values := range h {
		if all = append(all, values...); values != nil { // nil remains nil, as in http.Header.Clone
			values = slices.Clip(all[len(all)-len(values):])
		}
		wide[name] = values
	}
	return wide
}

// appendRequest appends the wire form of r, without a body.
func appendRequest(b []byte, r *http.Request) ([]byte, error) {
	if err := checkRequestLine(r); err != nil {
		return nil, err
	}
	if !syntax.IsHostField(r.Host) {
		return nil, badGateway("cannot send Host %s", syntax.Quote(r.Host))
	}
	b = append(append(b, cmp.Or(r.Method, http.MethodGet)...), ' ')
	b = append(append(b, r.URL.RequestURI()...), " HTTP/1.1\r\nHost: "...)
	b = append(append(b, r.Host...), "\r\n"...)
	if err := checkFields(r.Header); err != nil {
		return nil, err
	}
	if r.Method != "" && r.Method != http.MethodGet && r.Method != http.MethodHead {
		r.Header["Content-Length"] = []string{"0"}
	}
	return append(appendHeader(b, r.Header), "\r\n"...), nil
}

// checkFields refuses a header that cannot be sent. The error does not contain
// the value, which may be a secret.
func checkFields(h http.Header) error {
	for name, values := range h {
		if !syntax.IsToken(name) {
			return badGateway("cannot send a field named %s", syntax.Quote(name))
		}
		if slices.ContainsFunc(values, func(value string) bool { return !syntax.IsFieldValue(value) }) {
			return badGateway("cannot send field %s, want no control characters in its value", name)
		}
	}
	return nil
}

// appendHeader appends the wire form of h in a fixed order. The names of
// WebSocket's fields are spelled as in RFC 6455, for peers that compare them
// case-sensitively. A line break in a value becomes a space, as in net/http.
func appendHeader(b []byte, h http.Header) []byte {
	names := make([]string, 0, 32)
	for name := range h {
		if syntax.IsToken(name) { // http.ReadResponse accepts other names
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		wire := name
		if rest, ok := strings.CutPrefix(name, "Sec-Websocket-"); ok {
			wire = "Sec-WebSocket-" + rest
		}
		for _, value := range h[name] {
			b = append(append(b, wire...), ": "...)
			b = append(append(b, lineBreaks.Replace(value)...), "\r\n"...)
		}
	}
	return b
}

var lineBreaks = strings.NewReplacer("\r", " ", "\n", " ")

// checkRequestLine refuses a method or target that cannot be sent.
func checkRequestLine(r *http.Request) error {
	if r.Method == http.MethodConnect {
		return badGateway("cannot send method CONNECT")
	}
	if err := requestLineError(r); err != nil {
		return badGateway("cannot send %w", err)
	}
	return nil
}

// requestLineError returns an error if the method or the target of r cannot be
// sent in a request line. The error does not contain the query, which may be a
// secret.
func requestLineError(r *http.Request) error {
	if !syntax.IsToken(cmp.Or(r.Method, http.MethodGet)) {
		return fmt.Errorf("method %s, want a token", syntax.Quote(r.Method))
	}
	if uri := r.URL.RequestURI(); !syntax.IsFieldValue(uri) || strings.ContainsAny(uri, " \t") {
		return fmt.Errorf("target with path %s, want no white space and no control characters", syntax.Quote(r.URL.Path))
	}
	return nil
}
