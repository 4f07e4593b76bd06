package servers_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/pires/go-proxyproto"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/netutil"
)

// A wayIn is one kind of listener that reads PROXY headers.
type wayIn struct {
	name    string
	network string
	secure  bool
	wrap    func(net.Listener) net.Listener // nil: no further listener
}

var waysIn = []wayIn{
	{name: "TCP", network: "tcp"},
	{name: "TLS", network: "tcp", secure: true},
	{name: "unix", network: "unix"},
	{name: "LimitListener", network: "tcp", wrap: func(l net.Listener) net.Listener { return netutil.LimitListener(l, 100) }},
}

func (w wayIn) serve(t *testing.T, h http.Handler) *front {
	return serve(t, h, func(s *httptest.Server) {
		if w.network == "unix" {
			s.Listener.Close()
			l, err := net.Listen("unix", filepath.Join(testkit.SocketDir(t), "s"))
			require.NoError(t, err)
			s.Listener = l
		}
		s.Listener = &proxyproto.Listener{Listener: s.Listener}
		if w.wrap != nil {
			s.Listener = w.wrap(s.Listener)
		}
		if w.secure {
			s.TLS = new(tls.Config)
		}
	})
}

// dial connects and sends a PROXY header and first in one write.
func (w wayIn) dial(t *testing.T, f *front, header *proxyproto.Header, first string) *raw {
	t.Helper()
	b, err := header.Format()
	require.NoError(t, err)
	if !w.secure {
		return dial(t, w.network, f.addr, string(b)+first, nil)
	}
	client := dial(t, w.network, f.addr, string(b), nil)
	secure := tls.Client(client.Conn, f.clientTLS())
	_, err = io.WriteString(secure, first)
	require.NoError(t, err)
	client.Conn = secure
	client.br.Reset(secure)
	return client
}

// from returns a PROXY header with a client's address.
func from(version byte, addr string) *proxyproto.Header {
	source := net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addr))
	destination := &net.TCPAddr{IP: net.ParseIP("192.0.2.80"), Port: 443}
	if source.IP.To4() == nil {
		destination.IP = net.ParseIP("2001:db8::80")
	}
	return proxyproto.HeaderProxyFromAddrs(version, source, destination)
}

func TestTheAddressInAPROXYHeaderIsTheClientsAddress(t *testing.T) {
	upstream := newUpstream(t)
	local := &proxyproto.Header{Version: 2, Command: proxyproto.LOCAL}
	for _, w := range waysIn {
		for _, mode := range modes {
			t.Run(w.name+"/"+mode.name, func(t *testing.T) {
				opened := make(chan string, 10)
				p := testkit.NewProxy(t, upstream, append(mode.opts, wsproxy.WithUpgrades("tcp"), testkit.OnOpen(
					func(tunnel *wsproxy.Tunnel, _ *http.Request) { opened <- tunnel.ClientIP().String() }))...)
				f := w.serve(t, p)
				for _, c := range []struct {
					header *proxyproto.Header
					want   string
				}{
					{from(1, "203.0.113.7:4711"), "203.0.113.7"},
					{from(2, "203.0.113.8:4711"), "203.0.113.8"},
					{from(1, "[2001:db8::7]:4711"), "2001:db8::7"},
					{from(2, "[2001:db8::8]:4711"), "2001:db8::8"},
					{from(2, "[::ffff:203.0.113.9]:4711"), "203.0.113.9"},
					{local, map[string]string{"tcp": "127.0.0.1", "unix": "invalid IP"}[w.network]},
				} {
					listed := c.want
					if w.network == "unix" && c.header == local {
						listed = "unknown"
					}
					got := strings.TrimPrefix(fmt.Sprintf("%s, %s", c.want, listed), "invalid IP")
					client := w.dial(t, f, c.header, tcpRequest("/a"))
					assert.Equal(t, "GET /a for "+got, client.switched(t).Get(gotField))
					assert.Equal(t, c.want, <-opened, "Tunnel.ClientIP")
					client.Close()

					client = w.dial(t, f, c.header, plainRequest)
					res, err := http.ReadResponse(client.br, nil)
					require.NoError(t, err)
					assert.Equal(t, "GET /plain for "+got, res.Header.Get(gotField))
				}
			})
		}
	}
}

func TestEarlyAndLateBytesArriveThroughAPROXYListener(t *testing.T) {
	upstream := newUpstream(t)
	early, late := strings.Repeat("early ", 10_000), strings.Repeat("late ", 50_000)
	for _, w := range waysIn {
		for _, mode := range modes {
			t.Run(w.name+"/"+mode.name, func(t *testing.T) {
				p := testkit.NewProxy(t, upstream, append(mode.opts, wsproxy.WithUpgrades("tcp"))...)
				f := w.serve(t, p)
				for _, header := range []*proxyproto.Header{from(1, "203.0.113.7:4711"), from(2, "203.0.113.7:4711")} {
					// more bytes than any reader buffers together with the
					// header
					client := w.dial(t, f, header, tcpRequest("/")+early)
					client.switched(t)
					got := make(chan string, 1)
					go func() {
						b, _ := io.ReadAll(client)
						got <- string(b)
					}()
					_, err := io.WriteString(client.Conn, late)
					require.NoError(t, err)
					require.NoError(t, client.Conn.(interface{ CloseWrite() error }).CloseWrite())
					want := fmt.Sprintf("%d bytes: %s%s", len(early)+len(late), early, late)
					assert.True(t, bytes.Equal([]byte(want), []byte(<-got)), "what comes back is not what was sent")
				}
				client := w.dial(t, f, from(2, "203.0.113.7:4711"), tcpRequest("/last"))
				client.switched(t)
				got, err := io.ReadAll(client)
				assert.NoError(t, err)
				assert.Equal(t, "last words", string(got))
				client.Close()
				testkit.Eventually(t, func() bool { return p.Stats().Live == 0 }, "a tunnel stays")
			})
		}
	}
}

func TestTunnelsAreLimitedForEachAddressInAPROXYHeader(t *testing.T) {
	p := testkit.NewProxy(t, newUpstream(t), wsproxy.WithUpgrades("tcp"), wsproxy.WithMaxTunnelsPerIP(1))
	w := waysIn[0]
	f := w.serve(t, p)
	first := w.dial(t, f, from(1, "203.0.113.7:1"), tcpRequest("/"))
	first.switched(t)
	for port, status := range map[string]int{"203.0.113.7:2": 503, "203.0.113.8:3": 101, "[::ffff:203.0.113.7]:4": 503} {
		res, err := http.ReadResponse(w.dial(t, f, from(2, port), tcpRequest("/")).br, nil)
		require.NoError(t, err)
		assert.Equal(t, status, res.StatusCode, "a tunnel for %s", port)
	}
	first.Close()
	testkit.Eventually(t, func() bool { return p.Stats().Live == 1 }, "the first tunnel stays")
	w.dial(t, f, from(1, "203.0.113.7:5"), tcpRequest("/")).switched(t)
}

// Trust depends on the address in the header, not on the balancer that sent it.
func TestTrustDependsOnTheAddressInAPROXYHeader(t *testing.T) {
	w := waysIn[0]
	f := w.serve(t, testkit.NewProxy(t, newUpstream(t), wsproxy.WithTrustedProxies("203.0.113.7", "127.0.0.1", "unix:")))
	request := strings.Replace(plainRequest, "Connection:", "X-Forwarded-For: 198.51.100.1\r\nConnection:", 1)
	for source, want := range map[string]string{
		"203.0.113.7:1": "198.51.100.1, 198.51.100.1, 203.0.113.7",
		"203.0.113.8:1": "203.0.113.8, 203.0.113.8",
	} {
		res, err := http.ReadResponse(w.dial(t, f, from(1, source), request).br, nil)
		require.NoError(t, err)
		assert.Equal(t, "GET /plain for "+want, res.Header.Get(gotField))
	}
}

func TestAConnectionWithoutARequiredPROXYHeaderReachesNoUpstream(t *testing.T) {
	w := waysIn[0]
	f := w.serve(t, testkit.NewProxy(t, noConnections(t), wsproxy.WithUpgrades("tcp")))
	client := dial(t, "tcp", f.addr, tcpRequest("/"), nil)
	got, _ := io.ReadAll(client)
	assert.NotContains(t, string(got), " 101 ")
}
