package wsdebug

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"example.com/wsproxy"
)

// WithClose adds buttons to the page that close a tunnel or drain a server. The page
// asks for confirmation first. Without WithClose a POST gets a 405.
//
// A tunnel is closed with [wsproxy.Tunnel.Close]: both ends get a Close frame with
// code 1001 (going away) and the reason "closed by the operator", so that clients
// which reconnect after a restart do so here. A server is drained with
// [wsproxy.Proxy.Drain]: its tunnels get code 1012 (service restart), in random order
// and evenly over a time. New tunnels may still go to it. To prevent that, set
// [wsproxy.Server.Down] first.
//
// The buttons send a POST with a form, which programs may send as well:
//
//	close=17               close the tunnel with this Tunnel.ID
//	opened=17000000000001  if given, only if it opened at this time, in nanoseconds
//	                       since 1970: after a restart, IDs begin at 1 again
//	drain=192.0.2.1:3000   drain the server
//	over=10                over so many seconds, 0 (the default) to 3600
//
// The response is a 303 to a page that says what happened. It is a 404 if there is
// no such tunnel or server, a 409 if the server is being drained already, and a 403
// for a request from another site, as [http.CrossOriginProtection] defines it. A
// drain continues when the viewer leaves. It has a goroutine until its tunnels have
// ended, for at most a minute more than the requested time.
//
// The handler checks no credentials. Anyone who reaches it can end every tunnel. That
// includes web sites if the Host of requests is not checked, see [Handler].
func WithClose() Option { return closeOption{} }

type closeOption struct{}

func (closeOption) apply(h *page) {
	h.names = append(h.names, actionParameters...)
	h.close = &closer{drains: make(map[drainKey]time.Duration)}
}

const (
	closeCode   = 1001
	closeReason = "closed by the operator"
	maxOver     = 3600        // seconds
	maxForm     = 8 << 10     // bytes
	drainGrace  = time.Minute // for the ends' answers
)

// A closer changes what a page shows.
type closer struct {
	protection http.CrossOriginProtection

	mu     sync.Mutex
	drains map[drainKey]time.Duration // the running drains, and over what time
}

type drainKey struct {
	p      *wsproxy.Proxy
	server string
}

// A failure is an error with the status of its response.
type failure struct {
	status int
	error
}

func failed(status int, format string, args ...any) error {
	return failure{status, fmt.Errorf(format, args...)}
}

func statusOf(err error) int {
	if f := (failure{}); errors.As(err, &f) {
		return f.status
	}
	return http.StatusBadRequest
}

// post performs the action of the form, and redirects to the page that the viewer
// came from.
func (h *page) post(w http.ResponseWriter, r *http.Request) {
	q, p, err := h.query(r)
	if err == nil {
		err = h.close.check(w, r)
	}
	var link string
	if err == nil {
		link, err = h.close.do(p, &q, r)
	}
	if err != nil {
		h.fail(w, r, q, err)
		return
	}
	w.Header().Set("Location", link) // http.Redirect would make it absolute, without what StripPrefix removed
	w.WriteHeader(http.StatusSeeOther)
}

func (c *closer) check(w http.ResponseWriter, r *http.Request) error {
	if err := c.protection.Check(r); err != nil {
		return failed(http.StatusForbidden, "the request comes from another site: %w", err)
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		return failed(http.StatusBadRequest, "the form cannot be parsed: %w", err)
	}
	for name := range r.PostForm {
		switch name {
		case "close", "opened", "drain", "over":
		default:
			return failed(http.StatusBadRequest, "unknown field %s: want close, opened, drain or over", quote(name))
		}
	}
	return nil
}

func (c *closer) do(p *shown, q *query, r *http.Request) (link string, err error) {
	id, server := r.PostForm.Get("close"), r.PostForm.Get("drain")
	switch {
	case (id == "") == (server == ""):
		return "", failed(http.StatusBadRequest, "want either close, the ID of a tunnel, or drain, the address of a server")
	case id != "":
		t, err := tunnel(p.Proxy, id)
		if err != nil {
			return "", err
		}
		if opened := r.PostForm.Get("opened"); opened != "" && opened != openedAt(t) {
			return "", failed(http.StatusNotFound, "tunnel %s is not open: another one has its ID now", quote(id))
		}
		return q.link("said", "closed", id), t.Close(closeCode, closeReason)
	default:
		return q.link("said", "drained", server), c.drain(p, server, r.PostForm.Get("over"))
	}
}

// tunnel returns the tunnel with the ID, which is text from a request.
func tunnel(p *wsproxy.Proxy, id string) (*wsproxy.Tunnel, error) {
	n, err := strconv.ParseUint(id, 10, 64)
	if err != nil {
		return nil, failed(http.StatusBadRequest, "close is %s: want the ID of a tunnel, a number", quote(id))
	}
	t, ok := p.Tunnel(n)
	if !ok {
		return nil, failed(http.StatusNotFound, "tunnel %d is not open: it has ended, or there was none", n)
	}
	return t, nil
}

func openedAt(t *wsproxy.Tunnel) string { return strconv.FormatInt(t.OpenedAt().UnixNano(), 10) }

func (c *closer) drain(p *shown, server, over string) error {
	var seconds int
	if over != "" {
		if err := setNumber(&seconds, "over", over, maxOver, " seconds"); err != nil {
			return err
		}
	}
	if !p.leadsTo(server) {
		return failed(http.StatusNotFound, "there is no server %s", quote(server))
	}
	key, d := drainKey{p.Proxy, server}, time.Duration(seconds)*time.Second
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, runs := c.drains[key]; runs {
		return failed(http.StatusConflict, "server %s is being drained", quote(server))
	}
	c.drains[key] = d
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), d+drainGrace)
		defer cancel()
		p.Proxy.Drain(ctx, d, func(t *wsproxy.Tunnel) bool { return t.Server() == server })
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.drains, key)
	}()
	return nil
}

// draining reports whether the server is being drained, and over what time.
func (c *closer) draining(p *shown, server string) (over time.Duration, runs bool) {
	if c == nil {
		return 0, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	over, runs = c.drains[drainKey{p.Proxy, server}]
	return over, runs
}

// leadsTo reports whether p has tunnels to the server, or can open some.
func (p *shown) leadsTo(server string) bool {
	for _, each := range servers(p.Upstream, p.Proxy.Stats()) {
		if each.addr == server {
			return true
		}
	}
	return false
}
