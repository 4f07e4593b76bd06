//lint:file-ignore SA1019 nhooyr.io/websocket is deprecated in favour of github.com/coder/websocket, but go.mod already has it for the tests.

package main

import (
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"example.com/wsproxy"
	"nhooyr.io/websocket"
)

//go:embed demo.html
var demoPage []byte

// A demo is the upstream of a command without targets. It serves a page, a
// WebSocket that sends the handshake it received and then echoes messages, and
// the counters of the proxy in front of it.
type demo struct {
	url      string
	listener net.Listener
	server   *http.Server
	proxy    *wsproxy.Proxy
	end      context.CancelFunc // closes the sockets
	sockets  sync.WaitGroup
}

// newDemo listens on a free port of the loopback interface. front is the address
// that the command listens on.
func newDemo(log *slog.Logger, front string) (*demo, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	d := &demo{url: "http://" + l.Addr().String(), listener: l}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", servePage)
	mux.HandleFunc("GET /echo", d.serveEcho)
	mux.HandleFunc("GET /tunnels", d.serveTunnels)
	var ctx context.Context
	ctx, d.end = context.WithCancel(context.Background())
	d.server = &http.Server{
		Handler:           ownHosts(front, mux),
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	return d, nil
}

// serve starts to serve the requests of proxy.
func (d *demo) serve(proxy *wsproxy.Proxy) {
	d.proxy = proxy
	go d.server.Serve(d.listener)
}

// close stops the demo. It must be called after the proxy in front has stopped,
// so that it does not wait for open requests.
func (d *demo) close() {
	d.end()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	d.server.Shutdown(ctx)
	d.server.Close()
	d.listener.Close() // if it was never served
	d.sockets.Wait()
}

// ownHosts refuses requests to h from pages of other sites. A site can make its
// name resolve to this machine after its page is loaded (DNS rebinding). The
// browser then treats the demo as part of the page's origin, so only the host in
// the request shows that it is another site.
func ownHosts(front string, h http.Handler) http.Handler {
	name, _, _ := net.SplitHostPort(front)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The proxy may have replaced Host (-target-host), but then it sets
		// X-Forwarded-Host.
		for _, host := range append([]string{r.Host}, r.Header["X-Forwarded-Host"]...) {
			if !ownHost(host, name) {
				http.Error(w, "the demo does not serve the host "+strconv.Quote(host)+
					", want localhost, an IP address or the host of -listen", http.StatusForbidden)
				return
			}
		}
		h.ServeHTTP(w, r)
	})
}

// ownHost reports whether hostport is localhost, an IP address, which is not
// resolved, or the host name.
func ownHost(hostport, name string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil { // it has no port
		host = strings.Trim(hostport, "[]")
	}
	_, err = netip.ParseAddr(host)
	return err == nil || strings.EqualFold(host, "localhost") || name != "" && strings.EqualFold(host, name)
}

func servePage(w http.ResponseWriter, _ *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "+
		"img-src data:; connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	// The clock of an isolated page has steps of 5 µs, that of others 100 µs.
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Embedder-Policy", "require-corp")
	w.Write(demoPage)
}

// A handshake is the first message on a socket of the demo. It shows the request
// that arrived.
type handshake struct {
	Command  string              `json:"command"` // the command that started the demo
	Request  string              `json:"request"`
	Upstream string              `json:"upstream"`
	Host     string              `json:"host"`
	Header   map[string][]string `json:"header"`
}

func (d *demo) serveEcho(w http.ResponseWriter, r *http.Request) {
	d.sockets.Add(1)
	defer d.sockets.Done()
	if !fromOwnPage(r) {
		http.Error(w, "the request is not from the demo's page", http.StatusForbidden)
		return
	}
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true}) // see fromOwnPage
	if err != nil {
		return // Accept has responded
	}
	defer conn.CloseNow()
	ctx := r.Context() // no timeout here; the proxy's timeouts end an idle socket
	kind := websocket.MessageText
	message, _ := json.Marshal(newHandshake(r, d.url))
	for {
		if err := conn.Write(ctx, kind, message); err != nil {
			return
		}
		if kind, message, err = conn.Read(ctx); err != nil {
			return // Read has answered a Close frame
		}
	}
}

// maxShown is the maximum number of tunnels on the page.
const maxShown = 20

// counters are the proxy's counts for the page. All times are in milliseconds.
type counters struct {
	Live    int             `json:"live"`
	Opened  int64           `json:"opened"`
	Tunnels []tunnelCounter `json:"tunnels"` // newest first, at most maxShown
}

type tunnelCounter struct {
	ID           uint64      `json:"id"`
	Client       string      `json:"client"`
	Path         string      `json:"path"`
	Age          int64       `json:"age"`
	Idle         int64       `json:"idle"` // since the last activity
	FromClient   flowCounter `json:"fromClient"`
	FromUpstream flowCounter `json:"fromUpstream"`
}

type flowCounter struct {
	Bytes    int64 `json:"bytes"`
	Messages int64 `json:"messages"`
}

// serveTunnels serves the proxy's counters, but only to the demo's page.
func (d *demo) serveTunnels(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("X-Content-Type-Options", "nosniff")
	// Browsers send no Origin with a same-origin GET.
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
	default:
		http.Error(w, "the request is not from the demo's page", http.StatusForbidden)
		return
	}
	if !fromOwnPage(r) {
		http.Error(w, "the request is not from the demo's page", http.StatusForbidden)
		return
	}
	h.Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(d.counters())
}

func (d *demo) counters() counters {
	tunnels := slices.SortedFunc(d.proxy.Tunnels(), func(a, b *wsproxy.Tunnel) int { return cmp.Compare(b.ID(), a.ID()) })
	stats := d.proxy.Stats()
	c := counters{Live: stats.Live, Opened: stats.Opened, Tunnels: []tunnelCounter{}}
	now := time.Now()
	for _, t := range tunnels[:min(len(tunnels), maxShown)] {
		fromClient, fromUpstream := t.FromClient(), t.FromUpstream()
		c.Tunnels = append(c.Tunnels, tunnelCounter{
			ID:           t.ID(),
			Client:       t.ClientIP().String(),
			Path:         t.Path(),
			Age:          now.Sub(t.OpenedAt()).Milliseconds(),
			Idle:         max(0, now.Sub(t.LastActivity()).Milliseconds()),
			FromClient:   flowCounter{fromClient.Bytes, fromClient.Messages},
			FromUpstream: flowCounter{fromUpstream.Bytes, fromUpstream.Messages},
		})
	}
	return c
}

func newHandshake(r *http.Request, upstream string) handshake {
	header := r.Header.Clone()
	// A browser sends the cookies of all servers on localhost, and people watch
	// a demo.
	for _, secret := range []string{"Authorization", "Cookie"} {
		if header[secret] != nil {
			header[secret] = []string{"(hidden by the demo)"}
		}
	}
	return handshake{
		Command:  typed(os.Args[0]),
		Request:  r.Method + " " + r.RequestURI + " " + r.Proto,
		Upstream: upstream,
		Host:     r.Host,
		Header:   header,
	}
}

// goRun matches the directories in which go run puts its binaries.
var goRun = regexp.MustCompile(`go-build\d*[/\\]|[/\\][0-9a-f]{64}-d$`)

// typed returns the command to show for a program that was started as name. For
// go run it is the command in the README.
func typed(name string) string {
	if goRun.MatchString(filepath.Dir(name)) {
		return "go run ./cmd/wsproxy"
	}
	return name
}

// fromOwnPage reports whether r comes from a page of the demo or from no page.
// Unlike the library's check it works with -target-host, which replaces the
// browser's Host.
func fromOwnPage(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && (strings.EqualFold(u.Host, r.Host) || strings.EqualFold(u.Host, r.Header.Get("X-Forwarded-Host")))
}
