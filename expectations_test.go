package wsproxy_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"example.com/wsproxy"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What Go programs expect of a proxy for upgrades: the behaviours for which
// net/http/httputil, Traefik and Kubernetes have tests of their own, as far as
// no other file here has them. Where this proxy differs, the test says so.

// golang/go#35559
func TestTheEndOfTheContextEndsABusyTunnelForBothSides(t *testing.T) {
	overLinks(t, nil, func(t *testing.T, l link) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		ended := newEndings()
		client, server := l.start(t, withContext(ctx), ended.hook()).tunnel(t)
		sent := make(chan error, 1)
		go func() {
			_, err := io.Copy(server, endless{})
			sent <- err
		}()
		_, err := io.CopyN(io.Discard, client, 1<<20)
		require.NoError(t, err)
		cancel()
		_, err = io.Copy(io.Discard, client)
		assert.NotErrorIs(t, err, errDeadline, "the client's connection stays open")
		err = within(t, sent, "the upstream goes on sending")
		assert.Error(t, err)
		assert.NotErrorIs(t, err, errDeadline, "the upstream's connection stays open")
		assert.Equal(t, wsproxy.ContextDone, ended.next(t).Reason)
	})
}

func TestEachOfTheFourHalvesMayBeClosed(t *testing.T) {
	closeRead := func(t *testing.T, p *peer) {
		require.NoError(t, p.socket().(interface{ CloseRead() error }).CloseRead())
	}
	overLinks(t, nil, func(t *testing.T, l link) {
		eachSide(t, func(t *testing.T, side wsproxy.Reason) {
			r := l.start(t, nil)

			client, server := r.tunnel(t)
			from, to := inOrder(side, client, server)
			closeRead(t, from)
			for range 3 {
				from.send(t, "from the one that reads no more")
				to.expect(t, "from the one that reads no more")
			}

			client, server = r.tunnel(t)
			from, to = inOrder(side, client, server)
			require.NoError(t, from.CloseWrite())
			for range 3 {
				to.send(t, "to the one that writes no more")
				from.expect(t, "to the one that writes no more")
			}
			to.expectEOF(t, "")
			to.Close()
			from.expectEOF(t, "")
		})
	})
}

func TestMiddlewareFindsTheHeaderOfTheSwitchOnceServeHTTPReturns(t *testing.T) {
	for name, opts := range map[string][]wsproxy.Option{"blocking": nil, "detached": {wsproxy.WithDetached()}} {
		t.Run(name, func(t *testing.T) {
			found := make(chan http.Header, 1)
			r := plainLink.start(t, func(h http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("X-Own", "1")
					h.ServeHTTP(w, r)
					found <- w.Header()
				})
			}, append(opts, wsproxy.WithModifyResponse(func(res *http.Response) error {
				res.Header.Set("X-Modified", "2")
				return nil
			}))...)
			client, server := r.tunnel(t)
			client.Close()
			server.Close()
			header := within(t, found, "ServeHTTP does not return")
			for field, value := range map[string]string{"X-Own": "1", "X-Modified": "2", "Sec-WebSocket-Accept": sampleAccept} {
				assert.Equal(t, value, header.Get(field), field)
			}
		})
	}
}

// A handedOver tells of each use of it after its connection was hijacked.
type handedOver struct {
	http.ResponseWriter
	dead     bool // the connection is closed by the time it is handed over
	hijacked atomic.Bool
	touched  chan string
}

func (h *handedOver) touch(what string) {
	if h.hijacked.Load() {
		h.touched <- what
	}
}

func (h *handedOver) Header() http.Header {
	h.touch("Header")
	return h.ResponseWriter.Header()
}

func (h *handedOver) WriteHeader(status int) {
	h.touch(fmt.Sprint("WriteHeader ", status))
	h.ResponseWriter.WriteHeader(status)
}

func (h *handedOver) Write(b []byte) (int, error) {
	h.touch(fmt.Sprintf("Write %q", b))
	return h.ResponseWriter.Write(b)
}

func (h *handedOver) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, brw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	h.touch("Hijack")
	h.hijacked.Store(true)
	if h.dead && err == nil {
		conn.Close()
	}
	return conn, brw, err
}

// golang/go#72954
func TestNothingTouchesTheResponseWriterAfterTheHijack(t *testing.T) {
	cancelled := make(chan context.CancelFunc, 1)
	cases := []struct {
		name string
		dead bool
		opts []wsproxy.Option
		end  func(p *wsproxy.Proxy, client, server *peer)
	}{
		{"the client closes", false, nil, func(_ *wsproxy.Proxy, client, _ *peer) { client.Close() }},
		{"the upstream resets", false, nil, func(_ *wsproxy.Proxy, _, server *peer) { server.reset() }},
		{"the proxy is closed", false, nil, func(p *wsproxy.Proxy, _, _ *peer) { p.Close() }},
		{"the context ends", false, nil, func(p *wsproxy.Proxy, client, _ *peer) {
			(<-cancelled)()
			client.Close() // which ends a detached tunnel, that the context does not
		}},
		{"the client is gone", true, nil, func(*wsproxy.Proxy, *peer, *peer) {}},
		{"a hook panics", false, []wsproxy.Option{wsproxy.WithHooks(wsproxy.Hooks{
			OnOpen: func(*wsproxy.Tunnel, *http.Request) { panic("boo") }})}, func(*wsproxy.Proxy, *peer, *peer) {}},
	}
	for mode, detached := range map[string][]wsproxy.Option{"blocking": nil, "detached": {wsproxy.WithDetached()}} {
		for _, c := range cases {
			t.Run(c.name+"/"+mode, func(t *testing.T) {
				touched := make(chan string, 100)
				returned := make(chan struct{})
				cancelled = make(chan context.CancelFunc, 1)
				r := plainLink.start(t, func(h http.Handler) http.Handler {
					return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						defer close(returned)
						ctx, cancel := context.WithCancel(r.Context())
						defer cancel()
						cancelled <- cancel
						h.ServeHTTP(&handedOver{ResponseWriter: w, dead: c.dead, touched: touched}, r.WithContext(ctx))
					})
				}, append(c.opts, detached...)...)
				client := r.connect(t)
				client.send(t, sampleRequest)
				server := r.u.accept(t)
				server.request(t)
				server.send(t, sampleSwitch)
				if res, err := http.ReadResponse(client.br, nil); err == nil {
					assert.Equal(t, 101, res.StatusCode)
				}
				c.end(r.p, client, server)
				server.Read(make([]byte, 1))
				server.Close()
				within(t, returned, "ServeHTTP does not return")
				eventually(t, func() bool { return r.p.Stats().Live == 0 }, "the tunnel stays")
				close(touched)
				for what := range touched {
					assert.Fail(t, "the ResponseWriter is used after the hijack", what)
				}
			})
		}
	}
}

func TestPingAndPongCrossEndToEnd(t *testing.T) {
	overLinks(t, nil, func(t *testing.T, l link) {
		eachSide(t, func(t *testing.T, side wsproxy.Reason) {
			client, server := wired(l.start(t, nil).tunnel(t))
			from, to := client, server
			if side == wsproxy.UpstreamClosed {
				from, to = server, client
			}
			from.sendFrame(t, wireTextPart, "one ")
			to.expectFrame(t, wireTextPart, "one ")
			for _, payload := range []string{"", "Ping", strings.Repeat("p", 125)} {
				from.sendFrame(t, wirePing, payload)
				to.expectFrame(t, wirePing, payload) // and is not answered by the proxy
				to.sendFrame(t, wirePong, payload)
				from.expectFrame(t, wirePong, payload)
			}
			to.sendFrame(t, wirePong, "unsolicited")
			from.expectFrame(t, wirePong, "unsolicited")
			from.sendFrame(t, wireCont, "message")
			to.expectFrame(t, wireCont, "message")
		})
	})
}

// A connection that ends without a Close frame is seen so, as code 1006: the
// proxy makes up none, nor completes what is cut. For resets see
// TestAResetArrivesAsAReset.
func TestAnAbruptCloseIsSeenAsAbrupt(t *testing.T) {
	overLinks(t, nil, func(t *testing.T, l link) {
		eachSide(t, func(t *testing.T, side wsproxy.Reason) {
			ended := newEndings()
			r := l.start(t, nil, ended.hook())
			for _, cut := range []int{0, 1, 4, 100} {
				client, server := wired(r.tunnel(t))
				from, to := client, server
				if side == wsproxy.UpstreamClosed {
					from, to = server, client
				}
				from.sendFrame(t, wireText, "whole")
				to.expectFrame(t, wireText, "whole")
				part := from.frame(wireText, strings.Repeat("x", 200))[:cut]
				from.send(t, part)
				from.Close()
				to.expectEOF(t, part)
				to.Close()
				ending := ended.next(t)
				assert.Equal(t, side, ending.Reason)
				assert.Zero(t, ending.FromClient.CloseCode)
				assert.Zero(t, ending.FromUpstream.CloseCode)
				assert.EqualValues(t, 1, from.sentBy(ending).Messages)
			}
		})
	})
}
