package wsproxytest_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/frame"
	. "example.com/wsproxy/wsproxytest"
)

func upper(w *Wire, f Frame) {
	f.Payload = []byte(strings.ToUpper(string(f.Payload)))
	w.Send(f)
}

func TestRefusedHandshakesNeverReachTheServer(t *testing.T) {
	everyWay(t, func(t *testing.T, dial func(testing.TB, *Proxy, string) *peer) {
		server, ends := served()
		p := New(t, server, nil)
		try := func() (status int, err error) {
			conn, err := p.Dial(context.Background(), "", "")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_, res, err := connect(conn, "/")
			if err != nil {
				return 0, err
			}
			return res.StatusCode, nil
		}
		want := func(status int) {
			t.Helper()
			if got, err := try(); got != status || (status == 0) != isReset(err) {
				t.Errorf("%d, %v, want %d", got, err, status)
			}
		}
		p.Refuse(2, 503)
		want(503)
		want(503)
		want(101)
		p.Refuse(1, 0)
		want(0)
		want(101)
		p.Refuse(-1, 429)
		for range 5 {
			want(429)
		}
		p.Refuse(0, 0)
		want(101)
		dial(t, p, "/")
		for range 4 {
			within(t, ends, "tunnel")
		}
		if n := len(ends); n != 0 {
			t.Errorf("the server has %d tunnels more than 4", n)
		}
	})
}

func TestPlainRequestsPass(t *testing.T) {
	p := New(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Method, " ", r.URL, " ", r.Host)
	}), nil)
	p.Refuse(-1, 503) // refuses handshakes only
	res, err := p.Client().Get("http://any.test/page?x=1")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if b, _ := io.ReadAll(res.Body); string(b) != "GET /page?x=1 any.test" {
		t.Errorf("%q", b)
	}
}

// A Handler could not read a compressed payload.
func TestExtensionsAreNotNegotiated(t *testing.T) {
	server := make(chan http.Header, 1)
	p := New(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		server <- r.Header
		serve(echo).ServeHTTP(w, r)
	}), nil)
	dial(t, p, "/")
	if got, ok := (<-server)["Sec-Websocket-Extensions"]; ok {
		t.Errorf("the server is offered %q", got)
	}
	if _, ok := p.Tunnel(1).Request.Header["Sec-Websocket-Extensions"]; ok {
		t.Error("the tunnel's request has extensions")
	}
}

func TestANewURLStandsInFrontOfARunningServerWithTLSOnBothLegs(t *testing.T) {
	back := httptest.NewTLSServer(serve(echo))
	t.Cleanup(back.Close)
	trust := back.Client().Transport.(*http.Transport).TLSClientConfig
	p := NewURL(t, back.URL, upper, wsproxy.WithTLSConfig(trust))
	front := httptest.NewTLSServer(p)
	t.Cleanup(front.Close)
	dialTLS := func() *peer {
		conn, err := tls.Dial("tcp", front.Listener.Addr().String(), trust)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(patience))
		return handshake(t, conn, "/")
	}
	c := dialTLS()
	c.text(t, "hello")
	c.want(t, frame.OpText, "HELLO")
	c.closeWrite()
	c.wantEnd(t, "", isEOF)
	c.Close()
	<-p.Tunnel(1).Done()

	c = dialTLS()
	c.text(t, "hello")
	c.want(t, frame.OpText, "HELLO")
	p.Tunnel(2).Reset()
	c.wantEnd(t, "", isReset)

	c = dialTLS()
	c.text(t, "hello")
	c.want(t, frame.OpText, "HELLO")
	p.Tunnel(3).Cut()
	c.wantEnd(t, "", func(err error) bool { return err == io.EOF || err == io.ErrUnexpectedEOF })
}

func TestParallelTestsHaveProxiesOfTheirOwn(t *testing.T) {
	for i := range 20 {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			p := New(t, serve(echo), upper)
			for n := range 5 {
				c := dial(t, p, "/")
				c.text(t, fmt.Sprint("from test ", i))
				c.want(t, frame.OpText, fmt.Sprint("FROM TEST ", i))
				if p.Tunnel(n+1).N != n+1 {
					t.Errorf("tunnel %d", p.Tunnel(n+1).N)
				}
			}
		})
	}
}

// A Handler may keep its frame, because the harness does not use it again.
func TestAPayloadThatIsKeptDoesNotChange(t *testing.T) {
	kept := make(chan []byte, 100)
	server, ends := served()
	p := New(t, server, func(w *Wire, f Frame) {
		w.Send(f)
		kept <- f.Payload
	})
	c := dial(t, p, "/")
	s := <-ends
	for i := range 100 {
		c.text(t, fmt.Sprint("message ", i))
		s.want(t, frame.OpText, fmt.Sprint("message ", i))
	}
	for i := range 100 {
		if got := string(within(t, kept, "payload")); got != fmt.Sprint("message ", i) {
			t.Errorf("%q, want message %d", got, i)
		}
	}
}

// The memory of a frame grows with the bytes that arrive, not with the length in
// its header.
func TestALargeFramePasses(t *testing.T) {
	server, ends := served()
	p := New(t, server, nil)
	c := dial(t, p, "/")
	s := <-ends
	large := strings.Repeat("0123456789abcdef", 20<<16)
	go c.write(true, frame.OpBinary, large)
	s.want(t, frame.OpBinary, large)
	if got := p.Transcript(); got[0].Size != len(large) || len(got[0].Frame.Payload) != 64 {
		t.Errorf("the record has size %d and %d bytes", got[0].Size, len(got[0].Frame.Payload))
	}
}

func TestALongTranscriptKeepsItsTwoEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, ends := served()
		p := New(t, server, nil)
		c := dial(t, p, "/")
		s := <-ends
		go io.Copy(io.Discard, s.br)
		const n = 7500
		for i := range n {
			c.text(t, fmt.Sprint(i+1))
		}
		synctest.Wait()
		got := p.Transcript()
		if len(got) != 6001 || got[4999].Frame.Index != 5000 || got[5000].String() != "/ 1 … 1500 more records" ||
			got[5001].Frame.Index != n-999 || got[6000].Frame.Index != n {
			t.Errorf("%d records, %v, %v", len(got), got[5000], got[5001])
		}
	})
}

func BenchmarkAFrameInMemory(b *testing.B) {
	for _, size := range []int{100, 64 << 10} {
		b.Run(fmt.Sprint(size, " bytes"), func(b *testing.B) {
			server, ends := served()
			p := New(b, server, func(w *Wire, f Frame) { w.Send(f) })
			c := dial(b, p, "/")
			s := <-ends
			wire := c.wire(true, frame.OpBinary, strings.Repeat("x", size))
			b.SetBytes(int64(size))
			go func() {
				for range b.N {
					c.Conn.Write(wire)
				}
			}()
			for range b.N {
				s.want(b, frame.OpBinary, strings.Repeat("x", size))
			}
		})
	}
}
