package talk

import (
	"crypto/tls"
	"net/http"
	"strings"
	"sync"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/interop/internal/lab"
)

// A Front is a proxy that records how the last tunnel of each path ended.
type Front struct {
	*wsproxy.Proxy
	URL         string      // ws://addr or wss://addr; the latter for h2 and h3
	TLS         *tls.Config // for Go clients, if URL is wss
	Certificate string      // for other clients, if URL is wss

	mu      sync.Mutex
	endings map[string]wsproxy.Ending
}

// NewFront puts a proxy in front of a server at host:port. scheme is ws, wss, h2
// or h3, or "haproxy" for HAProxy that asks the proxy over HTTP/2.
func NewFront(t testing.TB, scheme, upstream string, opts ...wsproxy.Option) *Front {
	t.Helper()
	return NewFrontWithin(t, func(h http.Handler) http.Handler { return h }, scheme, upstream, opts...)
}

// NewFrontWithin is NewFront with the proxy within a handler such as a mux.
func NewFrontWithin(t testing.TB, wrap func(http.Handler) http.Handler, scheme, upstream string, opts ...wsproxy.Option) *Front {
	t.Helper()
	f := &Front{endings: map[string]wsproxy.Ending{}}
	f.Proxy = testkit.NewProxy(t, "http://"+upstream, append(opts, testkit.OnClose(f.note))...)
	switch scheme {
	case "h2":
		f.URL = "wss://" + testkit.ServeHTTP2(t, wrap(f), nil)
	case "h3":
		f.URL = "wss://" + ServeHTTP3(t, wrap(f))
	case "haproxy":
		f.URL = "ws://" + lab.HAProxy(t, testkit.ServeHTTP2Cleartext(t, wrap(f)))
	case "wss":
		var addr string
		addr, f.TLS = testkit.ServeTLS(t, wrap(f))
		f.URL, f.Certificate = "wss://"+addr, certificate(t, addr, f.TLS)
	default:
		f.URL = "ws://" + testkit.Serve(t, wrap(f))
	}
	return f
}

func (f *Front) note(t *wsproxy.Tunnel, e wsproxy.Ending) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.endings[t.Path()] = e
}

// Ending waits for the end of the tunnel of path.
func (f *Front) Ending(t testing.TB, path string) (e wsproxy.Ending) {
	t.Helper()
	testkit.Eventually(t, func() (ok bool) {
		f.mu.Lock()
		defer f.mu.Unlock()
		e, ok = f.endings[path]
		return ok
	}, "the tunnel of %s does not end", path)
	return e
}

func (f *Front) expand(result string) string {
	proto := "http"
	if f.TLS != nil {
		proto = "https"
	}
	return strings.Replace(result, "PROTO", proto, 1)
}
