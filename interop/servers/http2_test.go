package servers_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/coder/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// http1 returns a client that speaks HTTP/1.1 alone, as every client does that
// opens a WebSocket.
func (f *front) http1() *http.Client {
	transport := f.Client().Transport.(*http.Transport).Clone()
	transport.Protocols = new(http.Protocols)
	transport.Protocols.SetHTTP1(true)
	return &http.Client{Transport: transport}
}

// http2s are the servers that speak HTTP/2 beside HTTP/1.1.
var http2s = map[string]func(s *httptest.Server){
	"h2": func(s *httptest.Server) { s.EnableHTTP2 = true },
	"h2c": func(s *httptest.Server) {
		s.Config.Protocols = new(http.Protocols)
		s.Config.Protocols.SetHTTP1(true)
		s.Config.Protocols.SetUnencryptedHTTP2(true)
	},
}

func TestAServerWithHTTP2ServesBothKindsOfRequest(t *testing.T) {
	upstream := newUpstream(t)
	for name, change := range http2s {
		t.Run(name, func(t *testing.T) {
			p := testkit.NewProxy(t, upstream)
			protocols := make(chan string, 10)
			f := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				protocols <- r.Proto
				p.ServeHTTP(w, r)
			}), change)
			transport := f.Client().Transport.(*http.Transport).Clone()
			transport.Protocols = new(http.Protocols)
			transport.Protocols.SetHTTP2(true)
			transport.Protocols.SetUnencryptedHTTP2(true)
			t.Cleanup(transport.CloseIdleConnections)
			for _, method := range []string{"GET", "POST", "PUT"} {
				r, err := http.NewRequest(method, f.URL+"/x%2Fy?q=1", strings.NewReader(strings.Repeat("body ", 20_000)))
				require.NoError(t, err)
				res, err := transport.RoundTrip(r)
				require.NoError(t, err)
				got, err := io.ReadAll(res.Body)
				require.NoError(t, err)
				assert.Equal(t, "HTTP/2.0", <-protocols)
				assert.Equal(t, strings.Repeat("body ", 20_000), string(got))
				assert.Equal(t, method+" /x%2Fy?q=1 for 127.0.0.1, 127.0.0.1", res.Header.Get(gotField))
				assert.Empty(t, res.Header["Connection"])
			}
			conn, _ := dialWebSocket(t, f.URL, f.http1())
			assert.Equal(t, "HTTP/1.1", <-protocols)
			talk(t, conn)
			assert.NoError(t, conn.Close(websocket.StatusNormalClosure, ""))
			assert.Empty(t, f.log.String())
		})
	}
}

// RFC 9113, section 8.2.2, knows no Upgrade.
func TestHTTP2KnowsNoUpgradeField(t *testing.T) {
	upstream := noConnections(t)
	for name, change := range http2s {
		t.Run(name, func(t *testing.T) {
			f := serve(t, testkit.NewProxy(t, upstream, wsproxy.WithUpgrades("websocket", "tcp")), change)
			var config *tls.Config
			if f.TLS != nil {
				config = f.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
				config.NextProtos = []string{"h2"}
				config.ServerName = "127.0.0.1"
			}
			wire := dial(t, "tcp", f.addr, http2.ClientPreface, config)
			framer := http2.NewFramer(wire, wire)
			require.NoError(t, framer.WriteSettings())

			ask := func(stream uint32, fields ...string) {
				var block bytes.Buffer
				encoder := hpack.NewEncoder(&block)
				for _, field := range fields {
					at := strings.Index(field[1:], ":") + 1
					encoder.WriteField(hpack.HeaderField{Name: field[:at], Value: strings.TrimSpace(field[at+1:])})
				}
				require.NoError(t, framer.WriteHeaders(http2.HeadersFrameParam{
					StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true}))
			}
			handshake := []string{"sec-websocket-version: 13", "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ=="}
			ask(1, append([]string{":method: GET", ":scheme: http", ":authority: a", ":path: /", "connection: upgrade", "upgrade: websocket"}, handshake...)...)

			answered := map[uint32]bool{}
			for len(answered) < 1 {
				frame, err := framer.ReadFrame()
				require.NoError(t, err)
				switch frame := frame.(type) {
				case *http2.RSTStreamFrame:
					answered[frame.StreamID] = true
				case *http2.HeadersFrame:
					fields, err := hpack.NewDecoder(4096, nil).DecodeFull(frame.HeaderBlockFragment())
					require.NoError(t, err)
					assert.Equal(t, hpack.HeaderField{Name: ":status", Value: "400"}, fields[0])
					answered[frame.StreamID] = true
				}
			}
		})
	}
}

// An upgrade to h2c would have the upstream take requests past the proxy.
func TestAnUpgradeToH2CIsNeitherAcceptedNorForwarded(t *testing.T) {
	got := make(chan http.Header, 1)
	upstream := "http://" + testkit.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { got <- r.Header }))
	f := serve(t, testkit.NewProxy(t, upstream), http2s["h2c"])
	client := dial(t, "tcp", f.addr, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"+
		"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n", nil)
	res, err := http.ReadResponse(client.br, nil)
	require.NoError(t, err)
	assert.Equal(t, 200, res.StatusCode)
	select {
	case header := <-got:
		assert.Empty(t, header["Upgrade"])
		assert.Empty(t, header["Http2-Settings"])
	case <-time.After(testkit.Patience):
		assert.Fail(t, "the request does not pass as a plain one")
	}
}
