//lint:file-ignore SA1019 nhooyr.io/websocket is deprecated as a whole in favour of github.com/coder/websocket; it is the library the project was asked to use, and only this file does.

package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"nhooyr.io/websocket"
)

//go:embed demo.html
var demoPage []byte

// A demo is an upstream to look at: a page, and a WebSocket that sends the
// handshake it got and then echoes.
type demo struct {
	url      string
	server   *http.Server
	draining context.Context
	drain    context.CancelFunc // closes the sockets in order, without waiting
	sockets  sync.WaitGroup
}

// connKey is the context key of a request's connection.
type connKey struct{}

// startDemo runs a demo on a free port of the loopback interface.
func startDemo(log *slog.Logger) (*demo, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	d := &demo{url: "http://" + l.Addr().String()}
	d.draining, d.drain = context.WithCancel(context.Background())
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", servePage)
	mux.HandleFunc("GET /echo", d.serveEcho)
	d.server = &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, conn)
		},
	}
	go d.server.Serve(l)
	return d, nil
}

// close ends the demo. The proxy in front of it is gone by then, so that
// nothing holds it up.
func (d *demo) close() {
	d.drain()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	d.server.Shutdown(ctx)
	d.server.Close()
	d.sockets.Wait()
}

func servePage(w http.ResponseWriter, _ *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "+
		"img-src data:; connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	// An isolated page has a clock of 5 µs; others see round trips in steps of 100.
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Embedder-Policy", "require-corp")
	w.Write(demoPage)
}

// A handshake is the demo's first message: the request as it arrived.
type handshake struct {
	Request  string              `json:"request"`
	Upstream string              `json:"upstream"`
	Host     string              `json:"host"`
	Header   map[string][]string `json:"header"`
}

func (d *demo) serveEcho(w http.ResponseWriter, r *http.Request) {
	d.sockets.Add(1)
	defer d.sockets.Done()
	if !fromOwnPage(r) {
		http.Error(w, "this page is not the demo's", http.StatusForbidden)
		return
	}
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true}) // see fromOwnPage
	if err != nil {
		return // Accept has answered
	}
	defer conn.CloseNow()
	var writing sync.Mutex
	defer context.AfterFunc(d.draining, func() {
		writing.Lock()
		defer writing.Unlock()
		goAway(r.Context().Value(connKey{}).(net.Conn))
	})()

	ctx := context.Background() // the proxy's timeouts are what ends a silent socket
	kind := websocket.MessageText
	message, _ := json.Marshal(newHandshake(r, d.url))
	for {
		writing.Lock()
		if d.draining.Err() == nil {
			err = conn.Write(ctx, kind, message)
		}
		writing.Unlock()
		if err != nil {
			return
		}
		if kind, message, err = conn.Read(ctx); err != nil {
			return
		}
	}
}

// goAway sends a Close frame and then nothing more; the reader takes the
// peer's answer. The library's own Close sends a second Close frame when that
// answer comes, for which Chromium takes the whole connection for broken.
func goAway(conn net.Conn) {
	const reason = "the demo is shutting down"
	frame := []byte{0x88, byte(2 + len(reason)), 1001 >> 8, 1001 & 0xff} // RFC 6455, section 5.5.1
	conn.Write(append(frame, reason...))
	conn.(*net.TCPConn).CloseWrite()
}

func newHandshake(r *http.Request, upstream string) handshake {
	header := r.Header.Clone()
	// A browser sends the cookies of every server on localhost, and a demo is
	// there to be shown.
	for _, secret := range []string{"Authorization", "Cookie"} {
		if header[secret] != nil {
			header[secret] = []string{"(hidden by the demo)"}
		}
	}
	return handshake{
		Request:  r.Method + " " + r.RequestURI + " " + r.Proto,
		Upstream: upstream,
		Host:     r.Host,
		Header:   header,
	}
}

// fromOwnPage reports whether r comes from a page that the demo served, or
// from no page at all. Unlike the library's check it holds with -target-host,
// when Host is not what the browser asked for.
func fromOwnPage(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && (strings.EqualFold(u.Host, r.Host) || strings.EqualFold(u.Host, r.Header.Get("X-Forwarded-Host")))
}
