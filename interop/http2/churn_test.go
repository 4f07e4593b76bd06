package http2_test

import (
	"io"
	"math/rand/v2"
	"net/http"
	"runtime"
	"sync"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/interop/internal/talk"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/stretchr/testify/assert"
)

// soak_test.go has the same for HTTP/2. A stream of HTTP/3 has two directions that
// a client ends apart, with a FIN or a reset, at any moment of the handshake and
// of the relay.
func TestStreamsOfHTTP3LeaveNothingWheneverTheyEnd(t *testing.T) {
	u := testkit.NewUpstream(t)
	u.Script(func(server *testkit.Peer) {
		r, err := http.ReadRequest(server.Reader)
		if err != nil {
			return // the stream was reset before
		}
		io.WriteString(server, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
			"Sec-WebSocket-Accept: "+testkit.Accept(r.Header.Get("Sec-Websocket-Key"))+"\r\n\r\n")
		switch rand.N(4) {
		case 0:
			io.Copy(server, server)
		case 1:
			server.Conn.(interface{ SetLinger(int) error }).SetLinger(0)
		case 2:
			io.Copy(server, testkit.Zeros{})
		}
		server.Close()
	})
	p := testkit.NewProxy(t, u.URL, wsproxy.WithPing(time.Millisecond, time.Second), wsproxy.WithCloseTimeout(100*time.Millisecond))
	const canceled = quic.StreamErrorCode(http3.ErrCodeRequestCanceled)
	c := dialHTTP3(t, talk.ServeHTTP3(t, p))
	first := c.open(t, "/")
	first.CancelRead(canceled)
	first.CancelWrite(canceled)
	before := runtime.NumGoroutine()
	pause := func() { time.Sleep(rand.N(4 * time.Millisecond)) }
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 40 {
				s, err := c.send("/")
				if !assert.NoError(t, err) {
					return
				}
				pause()
				switch rand.N(3) {
				case 0:
					s.CancelWrite(canceled)
					pause()
				case 1:
					io.WriteString(s, "hello")
					s.Close()
					pause()
				case 2:
					for tunnel := range p.Tunnels() {
						tunnel.Close(1000, "")
						break
					}
				}
				s.CancelRead(canceled)
				s.CancelWrite(canceled)
			}
		})
	}
	all.Wait()
	testkit.Eventually(t, func() bool { return p.Stats().Live == 0 && p.Stats().Handshakes == 0 }, "tunnels or handshakes are left")
	testkit.Eventually(t, func() bool { return runtime.NumGoroutine() <= before+12 }, "goroutines are left") // quic-go keeps some
	assert.NotZero(t, p.Stats().Opened)
}
