package testkit

import (
	"context"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/wsproxy"
	_ "example.com/wsproxy/http2" // or net/http refuses extended CONNECT
)

// ServeHTTP2 runs h on a net/http server of HTTP/2 over TLS, with the settings
// of wsproxy.HTTP2Config and the test's. configure may be nil.
func ServeHTTP2(t testing.TB, h http.Handler, configure func(*http.Server)) (addr string) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	s.Config.HTTP2 = wsproxy.HTTP2Config()
	if configure != nil {
		configure(s.Config)
	}
	StartTLS(s)
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s.Listener.Addr().String()
}

// ServeHTTP2Cleartext is ServeHTTP2 without TLS, for other proxies.
func ServeHTTP2Cleartext(t testing.TB, h http.Handler) (addr string) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	s.Config.HTTP2 = wsproxy.HTTP2Config()
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s.Listener.Addr().String()
}

// An HTTP2Conn is a client's connection: net/http's, after its first request.
type HTTP2Conn struct {
	transport *http.Transport
	addr      string
	Dials     int      // connections made so far
	Conn      net.Conn // the last one
}

// DialHTTP2 returns a client of the server at addr. The test's end closes it.
func DialHTTP2(t testing.TB, addr string) *HTTP2Conn {
	_, config := TLS()
	config = config.Clone()
	config.NextProtos, config.InsecureSkipVerify = []string{"h2"}, true // also for certificates of a test's own
	c := &HTTP2Conn{addr: addr}
	c.transport = &http.Transport{ForceAttemptHTTP2: true, DialTLSContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, network, addr)
		c.Conn = conn
		c.Dials++
		return conn, err
	}}
	t.Cleanup(c.transport.CloseIdleConnections)
	return c
}

// RoundTrip sends an extended CONNECT, or any other request. net/http lets no
// :protocol pass in a Header, but reads that again once it has a connection.
func (c *HTTP2Conn) RoundTrip(r *http.Request) (*http.Response, error) {
	protocol := r.Header[":protocol"]
	delete(r.Header, ":protocol")
	return c.transport.RoundTrip(r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) {
			if protocol != nil {
				r.Header[":protocol"] = protocol
			}
		},
	})))
}

// NewRequest returns an extended CONNECT for uri, and its stream, which is open as
// soon as its Response is set. The caller resets the stream in the end.
func (c *HTTP2Conn) NewRequest(uri string) (*http.Request, *Stream, error) {
	u, err := url.Parse("https://" + c.addr + uri)
	if err != nil {
		return nil, nil, err
	}
	body, up := io.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	r := &http.Request{Method: http.MethodConnect, URL: u, Host: "server.example.com", Body: body,
		Header: http.Header{":protocol": {"websocket"}, "Sec-Websocket-Version": {"13"}}}
	return r.WithContext(ctx), &Stream{up: up, cancel: cancel}, nil
}

// Request is NewRequest with a stream that the test's end resets. Patience bounds
// its life.
func (c *HTTP2Conn) Request(t testing.TB, uri string) (*http.Request, *Stream) {
	t.Helper()
	r, s, err := c.NewRequest(uri)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Reset)
	timer := time.AfterFunc(Patience, s.Reset)
	t.Cleanup(func() { timer.Stop() })
	return r, s
}

// Connect sends an extended CONNECT for uri, after edit if that is not nil, and
// returns its stream with the response.
func (c *HTTP2Conn) Connect(t testing.TB, uri string, edit func(*http.Request)) *Stream {
	t.Helper()
	r, s := c.Request(t, uri)
	if edit != nil {
		edit(r)
	}
	var err error
	if s.Response, err = c.RoundTrip(r); err != nil {
		t.Fatalf("CONNECT %s: %v", uri, err)
	}
	return s
}

// Tunnel opens a tunnel to u and returns its ends.
func (c *HTTP2Conn) Tunnel(t testing.TB, u *Upstream) (client, server *Peer) {
	t.Helper()
	s := new(Stream)
	server = c.open(t, s, u)
	return NewPeer(s), server
}

// open makes s the client's end of a tunnel and returns the other one.
func (c *HTTP2Conn) open(t testing.TB, s *Stream, u *Upstream) (server *Peer) {
	t.Helper()
	r, opened := c.Request(t, "/chat")
	answer := make(chan error, 1)
	go func() {
		var err error
		opened.Response, err = c.RoundTrip(r)
		answer <- err
	}()
	server = u.Accept(t)
	server.Switch(t, "")
	if err := Within(t, answer, "a response to CONNECT"); err != nil {
		t.Fatal(err)
	}
	if opened.Response.StatusCode != http.StatusOK {
		t.Fatalf("status %s, want 200", opened.Response.Status)
	}
	s.Response, s.up, s.cancel = opened.Response, opened.up, opened.cancel
	return server
}

// Switch answers a handshake as the upstream, with more header lines, and returns
// the request.
func (p *Peer) Switch(t testing.TB, lines string) *http.Request {
	t.Helper()
	r := p.Request(t)
	p.Send(t, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Accept: "+Accept(r.Header.Get("Sec-Websocket-Key"))+"\r\n"+lines+"\r\n")
	return r
}

// Accept returns the Sec-WebSocket-Accept for a key.
func Accept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// A Stream is the client's end of an extended CONNECT. As a net.Conn it has no
// deadlines: Patience bounds its life.
type Stream struct {
	Response *http.Response
	up       *io.PipeWriter
	cancel   context.CancelFunc
	closed   atomic.Bool
	reading  sync.Mutex // Close reads on, and must not take bytes from a Read that waits
}

// Read returns no bytes that come after Close, not even if it waited before.
func (s *Stream) Read(b []byte) (n int, err error) {
	s.reading.Lock()
	defer s.reading.Unlock()
	if !s.closed.Load() {
		n, err = s.Response.Body.Read(b)
	}
	if s.closed.Load() {
		return 0, net.ErrClosed
	}
	return n, err
}

func (s *Stream) Write(b []byte) (int, error) { return s.up.Write(b) }

// CloseWrite sends END_STREAM.
func (s *Stream) CloseWrite() error { return s.up.Close() }

// Close sends END_STREAM, and discards what comes, as the close of a socket does.
// A Read that waits returns at the next bytes or the end.
func (s *Stream) Close() error {
	if s.up == nil {
		return nil
	}
	if s.closed.CompareAndSwap(false, true) && s.Response != nil {
		go func() {
			s.reading.Lock()
			defer s.reading.Unlock()
			io.Copy(io.Discard, s.Response.Body)
		}()
	}
	return s.up.Close()
}

// Reset sends RST_STREAM, unless both directions have ended.
func (s *Stream) Reset() {
	if s.up != nil {
		s.up.CloseWithError(errors.New("reset by the test")) // which RoundTrip waits for
		s.cancel()
	}
}

func (s *Stream) LocalAddr() net.Addr              { return nil }
func (s *Stream) RemoteAddr() net.Addr             { return nil }
func (s *Stream) SetDeadline(time.Time) error      { return os.ErrNoDeadline }
func (s *Stream) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (s *Stream) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }
