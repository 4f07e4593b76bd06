package wsproxy

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// otherMethods is the Allow of a refused CONNECT. The proxy forwards every
// method but that one.
const otherMethods = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT, TRACE"

// checkPlainRequest refuses a plain request that the client must not send, or
// that cannot be sent on as it is. No server is asked for it.
func checkPlainRequest(r *http.Request) error {
	if r.Method == http.MethodConnect {
		return refusedConnect(r)
	}
	if err := checkTarget(r); err != nil {
		return badRequest("%w", err)
	}
	if r.ProtoMajor < 2 { // net/http has checked the rest
		return nil
	}
	if err := requestLineError(r); err != nil {
		return badRequest("%w", err)
	}
	if r.Host != "" && !isHostField(r.Host) && !hasHostBytes(r.Host) {
		return badRequest("Host %s, want a host with an optional port", quote(r.Host))
	}
	return nil
}

// refusedConnect returns the refusal of a CONNECT. A success would tell the
// client that it has a tunnel (RFC 9110, section 9.3.6), and what it sends next
// would reach the upstream as more requests (CVE-2026-56866, golang/go#81740).
func refusedConnect(r *http.Request) *refusal {
	protocol, extended := connectProtocol(r)
	if extended {
		return &refusal{status: http.StatusNotImplemented,
			cause: fmt.Errorf("CONNECT with protocol %s, want a request of HTTP/1.1 for an upgrade", quote(protocol))}
	}
	return &refusal{status: http.StatusMethodNotAllowed, header: http.Header{"Allow": {otherMethods}},
		cause: errors.New("method CONNECT, want " + otherMethods)}
}

// connectProtocol returns the :protocol of an extended CONNECT (RFC 8441, RFC
// 9220) and reports whether r is one. net/http keeps it in the header, quic-go
// in Proto.
func connectProtocol(r *http.Request) (string, bool) {
	if protocol, ok := r.Header[":protocol"]; ok {
		return strings.Join(protocol, ", "), true
	}
	return r.Proto, r.ProtoMajor == 3 && !strings.HasPrefix(r.Proto, "HTTP/")
}

// checkTarget refuses a request target that a rule in front of the proxy, the
// proxy and the upstream could each read as another path.
func checkTarget(r *http.Request) error {
	if r.RequestURI == "*" && r.Method != http.MethodOptions {
		return errors.New(`target "*", want a path`)
	}
	opaque, err := url.PathUnescape(r.URL.Opaque) // of "GET x:path"
	if err != nil {
		opaque = r.URL.Opaque
	}
	for _, path := range []string{r.URL.Path, opaque} {
		if hasDotSegment(path) {
			return fmt.Errorf(`path %s, want no segment "." or ".."`, quote(path))
		}
	}
	return nil
}

// hasDotSegment reports whether path, which is decoded once, has a segment "."
// or "..". Some servers end a segment at a backslash, and some ignore what
// follows a semicolon.
func hasDotSegment(path string) bool {
	for segment := range strings.FieldsFuncSeq(path, func(c rune) bool { return c == '/' || c == '\\' }) {
		if name, _, _ := strings.Cut(segment, ";"); name == "." || name == ".." {
			return true
		}
	}
	return false
}

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

// requestLineError reports a method or target that no request line can hold.
// The query may be a secret, so the error does not have it.
func requestLineError(r *http.Request) error {
	if !isToken(cmp.Or(r.Method, http.MethodGet)) {
		return fmt.Errorf("method %s, want a token", quote(r.Method))
	}
	if uri := r.URL.RequestURI(); !isFieldValue(uri) || strings.ContainsAny(uri, " \t") {
		return fmt.Errorf("the target of path %s, want no white space and no control character in it", quote(r.URL.Path))
	}
	return nil
}
