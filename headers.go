package wsproxy

import (
	"net/http"
	"net/http/httputil"
	"strings"
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
	for name := range tokens(h["Connection"]) {
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
	if len(h["Upgrade"]) == 0 || !hasToken(h["Connection"], "upgrade") {
		return ""
	}
	for token := range tokens(h["Upgrade"]) {
		for _, name := range allowed {
			if equalFold(token, name) {
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
	for token := range tokens(r.Header["Connection"]) {
		if !equalFold(token, "upgrade") && !equalFold(token, "http2-settings") {
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
