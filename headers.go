package wsproxy

import (
	"net/http"
	"net/http/httputil"
	"strings"
)

// ConnectionUpgrade is the map that every nginx WebSocket recipe begins with:
//
//	map $http_upgrade $connection_upgrade { default upgrade; '' close; }
//
// It returns the Connection header to send upstream for a client's Upgrade
// header: "close" where there is none, else "upgrade".
func ConnectionUpgrade(httpUpgrade string) string {
	if httpUpgrade == "" {
		return "close"
	}
	return "upgrade"
}

// hopByHop are the fields that concern one connection alone (RFC 9110,
// section 7.6.1), with the obsolete ones of RFC 2616 that are still seen.
var hopByHop = []string{
	"Connection",
	"Http2-Settings", // RFC 7540, section 3.2.1: goes with Upgrade: h2c
	"Keep-Alive",
	"Proxy-Authenticate",
	"Proxy-Authorization",
	"Proxy-Connection",
	"Te",
	"Trailer",
	"Transfer-Encoding",
	"Upgrade",
}

// removeHopByHop removes the hop-by-hop fields and those that a Connection
// field names.
func removeHopByHop(h http.Header) {
	for name := range tokens(h["Connection"]) {
		h.Del(name)
	}
	for _, name := range hopByHop {
		delete(h, name)
	}
}

// upgradeToken returns the protocol to switch to: the first of the client's
// that is allowed, as allowed spells it. It returns "" for a plain request,
// which one without the upgrade option is (RFC 9110, section 7.8).
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

// withoutUpgrade returns r with nothing left of an upgrade that is not to be
// forwarded, so that a plain handler cannot pass it on by mistake.
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

// keepUpgrade keeps the Upgrade field of a 426, which names the protocols that
// the server requires (RFC 9110, section 15.5.22). httputil removes the field by
// its canonical name and restores that name in the response to the client.
func keepUpgrade(res *http.Response) {
	if protocols := res.Header["Upgrade"]; res.StatusCode == http.StatusUpgradeRequired && protocols != nil {
		res.Header["upgrade"] = protocols
	}
}

// Rewrite applies the proxy's header policy to a request of a
// [httputil.ReverseProxy] of your own: use it as, or within, that proxy's
// Rewrite. It routes pr.Out to the target, and sets Host, the forwarding
// fields and Connection as for the Proxy's own requests; of an upgrade only a
// protocol that [WithUpgrades] lists is kept. The query is the client's, to the
// byte. Set other fields before the call, with WithRewrite or in middleware, so
// that no trailer field of the client's can have their names. Rewrite cannot
// refuse a request: refuse CONNECT, and paths with dots, in front of that proxy.
// It may be called from any goroutine. The transport of that proxy is its own:
// the servers of [WithUpstream], a unix target, timeouts and TLS are not part of
// the policy.
func (p *Proxy) Rewrite(pr *httputil.ProxyRequest) {
	out := pr.Out
	out.URL.RawQuery = pr.In.URL.RawQuery // httputil drops parameters that it cannot parse
	out.URL.Opaque = ""                   // of "GET x:/path", which would go upstream as it is
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

	delete(out.Header, ":protocol") // of an extended CONNECT
	delete(out.Header, "Connection")
	delete(out.Header, "Upgrade")
	delete(out.Header, "Http2-Settings")
	protocol := upgradeToken(pr.In.Header, p.upgrades)
	if protocol != "" {
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
