package wsdebug

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	"example.com/wsproxy"
)

// Handler returns a handler that shows p's counts, servers and tunnels as a page.
// u is the [wsproxy.Upstream] of p, or nil if p has none.
//
// Anyone who reaches the handler sees the addresses of clients, and the hosts and
// paths that they requested. These are personal data. Handler checks no
// credentials: mount it on an address that only operators reach, or behind
// middleware that authenticates them. On a loopback address, check the Host of requests as
// well, or a web site can read the page through a browser on the same machine (DNS
// rebinding).
//
// The page needs no JavaScript and no other resource, and its links are relative,
// so that it works below any path, with [http.StripPrefix] and without. It responds
// to GET and HEAD and changes nothing, unless [WithClose] is given. A query selects
// what is shown. An invalid value gets a 400 that names it:
//
//	server=192.0.2.1:3000  tunnels to this server
//	ip=192.0.2.0/24        tunnels of clients with this address, or in this prefix
//	path=/chat             tunnels whose path contains this
//	older=10m              tunnels that have been open for this long
//	sort=-client_bytes     the order: age (the default), client, host, path, server, protocol,
//	                       client_bytes, client_messages, upstream_bytes, upstream_messages or
//	                       idle; with "-" in reverse
//	n=200                  how many tunnels, from 0 to 1000; the default is 200
//	refresh=2              reload after this many seconds, up to 3600; the default, 0, is never
//	format=json            respond with JSON
//	proxy=/chat            which proxy of HandlerOf; the default is the one without a name, or the first
//
// Rates and plots compare samples. The handler takes one when it responds, at most
// one in a second, and keeps 150. It drops them ten minutes after the last
// response. It has no goroutine. It builds one page at a time, so that all viewers
// together use at most one processor. Besides [wsproxy.Proxy.Stats], it visits each
// tunnel once.
//
// # JSON
//
// With format=json the response is one object. Later versions may add names, and
// keep the existing names and their meanings. Times are in RFC 3339, durations in seconds.
//
//	time      when the response was made
//	proxy     its Name, empty for Handler
//	proxies   all names of HandlerOf
//	stats     handshakes, live, opened and retries as in wsproxy.Stats;
//	          closed: a number for each Reason, such as "client_closed" or "read_timeout";
//	          refused: a number for each status, such as "503", that occurred or is the proxy's own;
//	          from_client and from_upstream: bytes and messages
//	rates     null on the first response; over: the time of which they are the average;
//	          opened and closed, tunnels per second;
//	          from_client and from_upstream: bytes and messages per second
//	servers   addr; tunnels: the proxy's open tunnels to it; state: null for a server that is
//	          not in the Upstream, else weight, max_tunnels (0: no limit), max_fails (null: never
//	          down), fail_timeout, backup, down, tunnels, opened, failed, fails, down_until (null
//	          if it is up) and available as in wsproxy.ServerState
//	matched   how many tunnels the query selects
//	tunnels   the first n of them: id, client (empty if it has no address), host, path (its first
//	          1024 bytes), server, protocol, subprotocol, opened_at, last_activity, age, idle;
//	          from_client and from_upstream: bytes and messages
//
// An error is an object with the field error.
func Handler(p *wsproxy.Proxy, u *wsproxy.Upstream, opts ...Option) http.Handler {
	return HandlerOf([]Named{{Proxy: p, Upstream: u}}, opts...)
}

// HandlerOf is [Handler] for several proxies. The page shows one, which the query
// selects by its Name (proxy=name), and links to the others. Without proxies it
// responds with 404. HandlerOf panics if two have the same Name, or if one has no
// Proxy. It ignores a nil option.
func HandlerOf(proxies []Named, opts ...Option) http.Handler {
	h := &page{names: slices.Clone(parameters), turn: make(chan struct{}, 1)}
	for _, each := range proxies {
		if each.Proxy == nil {
			panic(fmt.Sprintf("wsdebug: the proxy with the name %q is nil", each.Name))
		}
		if h.find(each.Name) != nil {
			panic(fmt.Sprintf("wsdebug: two proxies have the name %q", each.Name))
		}
		h.proxies = append(h.proxies, &shown{Named: each})
	}
	for _, opt := range opts {
		if opt != nil {
			opt.apply(h)
		}
	}
	return h
}

// An Option configures [Handler] and [HandlerOf].
type Option interface{ apply(*page) }

type page struct {
	proxies []*shown
	names   []string      // of the parameters of a query
	turn    chan struct{} // holds a value while a page is built
	close   *closer       // nil without WithClose
}

// A shown is a proxy with its samples.
type shown struct {
	Named
	samples samples
}

func (h *page) find(name string) *shown {
	for _, each := range h.proxies {
		if each.Name == name {
			return each
		}
	}
	return nil
}

func (h *page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	setHeaders(w.Header())
	switch {
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		h.get(w, r)
	case h.close == nil:
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
	case r.Method == http.MethodPost:
		h.post(w, r)
	default:
		w.Header().Set("Allow", "GET, HEAD, POST")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
	}
}

// query returns the query of a request, and the proxy that it selects.
func (h *page) query(r *http.Request) (query, *shown, error) {
	q, err := parseQuery(r.URL.RawQuery, h.names)
	if err != nil {
		return q, nil, err
	}
	name, given := q.values["proxy"]
	if p := h.find(name); p != nil {
		return q, p, nil
	}
	if given {
		return q, nil, failed(http.StatusNotFound, "no proxy has the name %s", quote(name))
	}
	if len(h.proxies) == 0 {
		return q, nil, failed(http.StatusNotFound, "there is no proxy to show")
	}
	return q, h.proxies[0], nil
}

// get responds with the page, or with JSON.
func (h *page) get(w http.ResponseWriter, r *http.Request) {
	q, p, err := h.query(r)
	if err != nil {
		h.fail(w, r, q, err)
		return
	}
	select {
	case h.turn <- struct{}{}:
	case <-r.Context().Done():
		return
	}
	body, err := h.build(p, &q)
	if err != nil {
		h.fail(w, r, q, err)
		return
	}
	write(w, q, http.StatusOK, body)
}

// build returns the body of a response. The caller has taken the turn, which build
// gives back.
func (h *page) build(p *shown, q *query) ([]byte, error) {
	defer func() { <-h.turn }()
	s := h.look(p, q)
	var b bytes.Buffer
	if q.json {
		err := writeJSON(&b, h, s)
		return b.Bytes(), err
	}
	v := h.view(s)
	if h.close != nil {
		if err := h.act(&v, s); err != nil {
			return nil, err
		}
	}
	err := pageTemplate.Execute(&b, v)
	return b.Bytes(), err
}

// fail responds with an error, as JSON or as a page with the form, in which the
// viewer can correct the query.
func (h *page) fail(w http.ResponseWriter, r *http.Request, q query, err error) {
	var b bytes.Buffer
	status := statusOf(err)
	if q.values["format"] == "json" {
		q.json = true
		writeJSONError(&b, err)
	} else if err := pageTemplate.Execute(&b, h.errorView(q, r.Method == http.MethodPost, status, err)); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	write(w, q, status, b.Bytes())
}

func write(w http.ResponseWriter, q query, status int, body []byte) {
	kind := "text/html; charset=utf-8"
	if q.json {
		kind = "application/json"
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	w.Write(body)
}

func setHeaders(h http.Header) {
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", contentSecurityPolicy)
	h.Set("Referrer-Policy", "same-origin") // no-referrer would make the Origin of the page's own POST null
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY") // frame-ancestors, for browsers that do not know it
}

// A state is what a page shows of a proxy: its counts, servers and tunnels at one
// moment.
type state struct {
	*shown
	query   *query
	now     time.Time
	stats   wsproxy.Stats
	history []sample
	live    map[*shown]int // tunnels of each proxy
	servers []server
	listing
}

// look returns the state of p. It samples the other proxies, too, so that their
// rates are known when the viewer selects them.
func (h *page) look(p *shown, q *query) *state {
	s := &state{shown: p, query: q, live: make(map[*shown]int)}
	for _, each := range h.proxies {
		stats, now := each.Proxy.Stats(), time.Now()
		history := each.samples.add(newSample(stats, now))
		s.live[each] = stats.Live
		if each == p {
			s.stats, s.now, s.history = stats, now, history
		}
	}
	s.listing = list(p.Proxy, q, s.stats.Live, s.now)
	s.servers = servers(p.Upstream, s.stats)
	return s
}

// A server is an address that tunnels lead to.
type server struct {
	addr    string
	tunnels int                  // of this proxy
	set     *wsproxy.ServerState // nil if it is not in the Upstream
}

// servers returns the servers of u in their order, and then others with tunnels.
func servers(u *wsproxy.Upstream, s wsproxy.Stats) []server {
	tunnels := maps.Collect(s.LiveByServer())
	known := make(map[string]bool)
	var all []server
	if u != nil {
		for _, each := range u.Servers() {
			known[each.Addr] = true
			all = append(all, server{each.Addr, tunnels[each.Addr], &each})
		}
	}
	for addr, n := range s.LiveByServer() {
		if !known[addr] {
			all = append(all, server{addr, n, nil})
		}
	}
	return all
}
