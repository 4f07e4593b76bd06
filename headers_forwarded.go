package wsproxy

import (
	"cmp"
	"context"
	"net"
	"net/http"
	"net/netip"
	"net/textproto"
	"slices"
	"strings"

	"example.com/wsproxy/internal/syntax"
)

// A headerPolicy sets the forwarding fields and those of WithHeader.
type headerPolicy struct {
	trusted   trust
	forwarded bool
	edits     []headerEdit
}

// A headerEdit sets a field, or removes it if value is empty, as nginx's
// proxy_set_header does.
type headerEdit struct{ name, value string }

// forwardingFields is how many fields apply adds at most, apart from edits.
const forwardingFields = 5

// apply sets the forwarding fields of out for the request in. out has no
// hop-by-hop fields. The lists to extend are read from in, so a client that
// names X-Forwarded-For in Connection cannot shorten them (CVE-2022-31813).
func (p *headerPolicy) apply(out http.Header, in *http.Request) {
	peer := peerAddr(in.RemoteAddr)
	trusted := p.trusted.peer(in, peer)
	for name := range out {
		if p.managed(name, trusted) {
			delete(out, name)
		}
	}

	var prior []string
	keepLists := trusted || !p.trusted.set
	if keepLists {
		prior = nonEmpty(in.Header["X-Forwarded-For"])
	}
	if client := p.clientBehind(peer, trusted, in); client.IsValid() {
		out["X-Real-Ip"] = []string{client.String()}
	}
	out["X-Forwarded-For"] = []string{strings.Join(append(prior, forwardedFor(peer)), ", ")}

	proto, host := scheme(in), in.Host
	if trusted {
		proto = cmp.Or(lastElement(in.Header["X-Forwarded-Proto"]), proto)
		host = cmp.Or(lastElement(in.Header["X-Forwarded-Host"]), host)
	}
	out["X-Forwarded-Proto"] = []string{proto}
	if host != "" { // HTTP/1.0 allows a request without Host
		out["X-Forwarded-Host"] = []string{host}
	}
	if p.forwarded {
		out["Forwarded"] = []string{forwardedValue(in, peer, keepLists)}
	} else if trusted && in.Header["Forwarded"] != nil {
		out["Forwarded"] = slices.Clone(in.Header["Forwarded"])
	}

	for _, edit := range p.edits {
		if edit.value == "" {
			delete(out, edit.name)
		} else {
			out[edit.name] = []string{edit.value}
		}
	}
}

// client returns the address of the client, which is the peer or, behind trusted
// proxies, an address of X-Forwarded-For.
func (p *headerPolicy) client(r *http.Request) netip.Addr {
	peer := peerAddr(r.RemoteAddr)
	return p.clientBehind(peer, p.trusted.peer(r, peer), r)
}

// clientBehind is client, given the peer and whether it is trusted.
func (p *headerPolicy) clientBehind(peer netip.Addr, trusted bool, r *http.Request) netip.Addr {
	if !trusted {
		return peer
	}
	return clientAddr(peer, r.Header["X-Forwarded-For"], p.trusted.prefixes)
}

// managed reports whether a client's field of this name must not be forwarded.
// These are the fields that the policy sets, the fields that only a trusted
// proxy may send, and aliases of both, such as X_Real_IP. CGI and WSGI map
// aliases to the same variable.
func (p *headerPolicy) managed(name string, trusted bool) bool {
	plain := dashed(name)
	alias := plain != name
	switch plain {
	case "Forwarded", "X-Real-Ip", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto":
		return true
	}
	if strings.HasPrefix(plain, "X-Forwarded-") {
		return alias || !trusted
	}
	return alias && strings.HasPrefix(plain, "Sec-Websocket-") ||
		slices.ContainsFunc(p.edits, func(e headerEdit) bool { return e.name != name && dashed(e.name) == plain })
}

// dashed returns the canonical form of name with all punctuation replaced by
// hyphens.
func dashed(name string) string {
	if !strings.ContainsFunc(name, isPunctuation) {
		return textproto.CanonicalMIMEHeaderKey(name)
	}
	return textproto.CanonicalMIMEHeaderKey(strings.Map(func(c rune) rune {
		if isPunctuation(c) {
			return '-'
		}
		return c
	}, name))
}

// isPunctuation reports whether dashed replaces c.
func isPunctuation(c rune) bool {
	return c != '-' && (c < 'a' || 'z' < c) && (c < 'A' || 'Z' < c) && (c < '0' || '9' < c)
}

// forwardedValue returns the Forwarded field (RFC 7239) with this hop added. It
// drops a list with an unclosed quote, because the added hop would become part
// of the quoted string.
func forwardedValue(in *http.Request, peer netip.Addr, keepList bool) string {
	node := forwardedFor(peer)
	if peer.Is6() {
		node = `"[` + node + `]"`
	}
	hop := "for=" + node
	if in.Host != "" {
		hop += ";host=" + syntax.QuotedString(in.Host)
	}
	hop += ";proto=" + scheme(in)
	prior := strings.Join(nonEmpty(in.Header["Forwarded"]), ", ")
	if !keepList || prior == "" || !syntax.Balanced(prior) {
		return hop
	}
	return prior + ", " + hop
}

func scheme(r *http.Request) string {
	if r.TLS != nil {
		return "https"
	}
	return "http"
}

// forwardedFor returns the peer's address, or "unknown" for a peer without one
// (RFC 7239, section 6.2, and common practice in X-Forwarded-For).
func forwardedFor(peer netip.Addr) string {
	if !peer.IsValid() {
		return "unknown"
	}
	return peer.String()
}

// peerAddr returns the address in an http.Request's RemoteAddr. It removes the
// zone and unmaps an IPv4-mapped IPv6 address. The result is invalid if
// remoteAddr has no address, as on a unix socket.
func peerAddr(remoteAddr string) netip.Addr {
	if addrPort, err := netip.ParseAddrPort(remoteAddr); err == nil {
		return addrPort.Addr().Unmap().WithZone("")
	}
	addr, _ := netip.ParseAddr(remoteAddr) // real-IP middleware sets an address without a port
	return addr.Unmap().WithZone("")
}

// clientAddr returns the right-most address of an X-Forwarded-For list that is
// not trusted, as nginx's real_ip_recursive does. It stops at an element that is
// not an address and returns the last address before it.
func clientAddr(peer netip.Addr, list []string, trusted []netip.Prefix) netip.Addr {
	client := peer
	for _, line := range slices.Backward(list) {
		for {
			comma := strings.LastIndexByte(line, ',')
			if element := textproto.TrimString(line[comma+1:]); element != "" {
				addr := listedAddr(element)
				if !addr.IsValid() {
					return client
				}
				client = addr
				if !contains(trusted, client) {
					return client
				}
			}
			if comma < 0 {
				break
			}
			line = line[:comma]
		}
	}
	return client
}

// listedAddr parses an address in one of the forms used in X-Forwarded-For:
// bare, with a port, or IPv6 in brackets without a port.
func listedAddr(s string) netip.Addr {
	if inner, ok := strings.CutPrefix(s, "["); ok && strings.HasSuffix(inner, "]") {
		s = strings.TrimSuffix(inner, "]")
	}
	return peerAddr(s)
}

// A trust is the set of peers whose forwarding fields are trusted.
type trust struct {
	set      bool // WithTrustedProxies was given
	unix     bool
	prefixes []netip.Prefix
}

func (t *trust) peer(r *http.Request, peer netip.Addr) bool {
	if !t.set {
		return false
	}
	return contains(t.prefixes, peer) || t.unix && onUnixSocket(r.Context())
}

func onUnixSocket(ctx context.Context) bool {
	local, ok := ctx.Value(http.LocalAddrContextKey).(net.Addr)
	return ok && local.Network() == "unix"
}

func contains(prefixes []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}

func nonEmpty(lines []string) []string {
	var kept []string
	for _, line := range lines {
		if textproto.TrimString(line) != "" {
			kept = append(kept, line)
		}
	}
	return kept
}

// lastElement returns the last element of a list over all its lines, or "" if
// that element is empty. If the nearest proxy extends the list, the last element
// is the one that it wrote.
func lastElement(lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	last := lines[len(lines)-1]
	return textproto.TrimString(last[strings.LastIndexByte(last, ',')+1:])
}
