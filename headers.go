package wsproxy

import (
	"io"
	"net/http"
	"net/http/httputil"
	"slices"
	"strings"

	"example.com/wsproxy/internal/syntax"
)

// ConnectionUpgrade returns the Connection header to send to the upstream for a
// client's Upgrade header: "close" if httpUpgrade is empty, "upgrade" otherwise.
// It is the map at the start of every nginx recipe for WebSockets:
//
//	map $http_upgrade $connection_upgrade { default upgrade; '' close; }
func ConnectionUpgrade(httpUpgrade string) string {
	if httpUpgrade == "" {
		return "close"
	}
	return "upgrade"
}

// hopByHop are the fields that apply to a single connection (RFC 9110, section
// 7.6.1), including obsolete ones of RFC 2616 that are still in use.
var hopByHop = []string{
	"Connection",
	"Http2-Settings", // RFC 7540, section 3.2.1: sent with Upgrade: h2c
	"Keep-Alive",
	"Proxy-Authenticate",
	"Proxy-Authorization",
	"Proxy-Connection",
	"Te",
	"Trailer",
	"Transfer-Encoding",
	"Upgrade",
}

// removeHopByHop removes the hop-by-hop fields and the fields named in
// Connection.
func removeHopByHop(h http.Header) {
	for name := range syntax.Tokens(h["Connection"]) {
		h.Del(name)
	}
	for _, name := range hopByHop {
		delete(h, name)
	}
}

// upgradeToken returns the protocol to switch to: the first protocol in Upgrade
// that is allowed, in the spelling of allowed. It returns "" for a plain
// request. A request without "upgrade" in Connection is plain (RFC 9110,
// section 7.8).
func upgradeToken(h http.Header, allowed []string) string {
	if len(h["Upgrade"]) == 0 || !syntax.HasToken(h["Connection"], "upgrade") {
		return ""
	}
	for token := range syntax.Tokens(h["Upgrade"]) {
		for _, name := range allowed {
			if syntax.EqualFold(token, name) {
				return name
			}
		}
	}
	return ""
}

// withoutUpgrade returns r without the fields of an upgrade that must not be
// forwarded, so that a plain handler cannot forward it by mistake.
func withoutUpgrade(r *http.Request) *http.Request {
	if r.Header["Upgrade"] == nil && r.Header["Http2-Settings"] == nil {
		return r
	}
	plain := *r
	plain.Header = r.Header.Clone()
	delete(plain.Header, "Upgrade")
	delete(plain.Header, "Http2-Settings")
	var rest []string
	for token := range syntax.Tokens(r.Header["Connection"]) {
		if !syntax.EqualFold(token, "upgrade") && !syntax.EqualFold(token, "http2-settings") {
			rest = append(rest, token)
		}
	}
	delete(plain.Header, "Connection")
	if rest != nil {
		plain.Header.Set("Connection", strings.Join(rest, ", "))
	}
	return &plain
}

// keepUpgrade keeps the Upgrade field of a 426, which lists the protocols that
// the server requires (RFC 9110, section 15.5.22). httputil removes the field
// only under its canonical name, so keepUpgrade uses another spelling. In the
// response to the client httputil restores the canonical name.
func keepUpgrade(res *http.Response) {
	if protocols := res.Header["Upgrade"]; res.StatusCode == http.StatusUpgradeRequired && protocols != nil {
		res.Header["upgrade"] = protocols
	}
}

// Rewrite applies the Proxy's header policy in another [httputil.ReverseProxy].
// Use it as that proxy's Rewrite function, or call it there. It is safe for
// concurrent use.
//
// Rewrite routes pr.Out to the target and sets Host, the forwarding fields and
// Connection, as the Proxy does for its own requests. It keeps an upgrade only
// to a protocol listed in [WithUpgrades]. It does not change the client's query.
// Set other fields before the call, with [WithRewrite] or in middleware, so that
// no trailer field of the client can have their names.
//
// Rewrite cannot refuse a request, so refuse CONNECT and paths with dot segments
// before that proxy. The other proxy uses its own transport: the servers of
// [WithUpstream], a unix target, timeouts and TLS do not apply to it.
func (p *Proxy) Rewrite(pr *httputil.ProxyRequest) {
	out := pr.Out
	out.URL.RawQuery = pr.In.URL.RawQuery // httputil drops parameters that it cannot parse
	out.URL.Opaque = ""                   // set by "GET x:/path"; it would be sent unchanged
	pr.SetURL(p.target.url)
	switch {
	case p.host.target:
		out.Host = p.target.url.Host
	case p.host.set:
		out.Host = p.host.name
	default:
		out.Host = pr.In.Host
	}
	p.policy.apply(out.Header, pr.In)
	var trailer http.Header
	if out.Trailer = nil; pr.In.Trailer != nil && out.Body != nil && out.ContentLength < 0 {
		trailer = p.policy.applyTrailer(out, pr.In)
	}

	delete(out.Header, ":protocol") // set by an extended CONNECT
	delete(out.Header, "Connection")
	delete(out.Header, "Upgrade")
	delete(out.Header, "Http2-Settings")
	protocol := requestedProtocol(pr.In, p.upgrades)
	if protocol != "" && out.Method != http.MethodConnect {
		out.Header["Upgrade"] = []string{protocol}
		out.Header["Connection"] = []string{ConnectionUpgrade(protocol)}
	} else if !p.keepAlive {
		out.Close = ConnectionUpgrade(protocol) == "close"
	}
	if p.rewrite != nil {
		p.rewrite(pr)
	}
	withoutFields(trailer, pr.Out.Header)
}

// applyTrailer sets the trailer of out to the fields that in announces, and
// returns it. It forwards a field only if the header could contain it and does
// not, because an upstream may merge trailer and header (CVE-2013-5704). The
// names are known from the start. The values appear in in.Trailer at the end of
// the body.
func (p *headerPolicy) applyTrailer(out, in *http.Request) http.Header {
	taken := fieldNames(in.Header)
	for name := range syntax.Tokens(in.Header["Connection"]) {
		taken[dashed(name)] = true
	}
	trailer := make(http.Header)
	for name := range in.Trailer {
		if !taken[dashed(name)] && p.passesInTrailer(name) {
			trailer[name] = nil
		}
	}
	out.Trailer = trailer
	out.Body = &notingBody{out.Body, func() {
		for name := range trailer {
			trailer[name] = in.Trailer[name]
		}
	}}
	// A trailer needs chunks. An HTTP/2 request has no TransferEncoding, and for
	// it the Transport would read the start of the body on another goroutine.
	out.TransferEncoding = []string{"chunked"}
	return trailer
}

func (p *headerPolicy) passesInTrailer(name string) bool {
	return syntax.IsToken(name) && name != "Host" && !slices.Contains(ownFields, name) &&
		!p.managed(name, false) && !slices.ContainsFunc(p.edits, func(e headerEdit) bool { return e.name == name })
}

// withoutFields removes the fields of h from trailer.
func withoutFields(trailer, h http.Header) {
	if len(trailer) == 0 {
		return
	}
	taken := fieldNames(h)
	for name := range trailer {
		if taken[dashed(name)] {
			delete(trailer, name)
		}
	}
}

// fieldNames returns the set of the names in h, with all punctuation replaced by
// hyphens.
func fieldNames(h http.Header) map[string]bool {
	names := make(map[string]bool, len(h))
	for name := range h {
		names[dashed(name)] = true
	}
	return names
}

// A notingBody calls atEnd at the end of a body.
type notingBody struct {
	io.ReadCloser
	atEnd func()
}

func (b *notingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.atEnd()
	}
	return n, err
}
