package http2_test

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/interop/internal/talk"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// An h3 is a client's connection.
type h3 struct {
	*http3.ClientConn
	addr string
}

func dialHTTP3(t *testing.T, addr string) *h3 {
	t.Helper()
	_, client := testkit.TLS()
	client = client.Clone()
	client.NextProtos = []string{http3.NextProtoH3}
	conn, err := quic.DialAddr(t.Context(), addr, client, &quic.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { conn.CloseWithError(0, "") })
	return &h3{new(http3.Transport).NewClientConn(conn), addr}
}

// connect sends an extended CONNECT.
func (c *h3) connect(t *testing.T, path string) (*http3.RequestStream, *http.Response) {
	t.Helper()
	s := c.open(t, path)
	res, err := s.ReadResponse()
	require.NoError(t, err)
	return s, res
}

func (c *h3) open(t *testing.T, path string) *http3.RequestStream {
	t.Helper()
	select {
	case <-c.ReceivedSettings():
	case <-time.After(testkit.Patience):
		require.Fail(t, "no SETTINGS")
	}
	require.True(t, c.Settings().EnableExtendedConnect)
	s, err := c.send(path)
	require.NoError(t, err)
	return s
}

// send is open for a client that has the server's SETTINGS, on any goroutine.
func (c *h3) send(path string) (*http3.RequestStream, error) {
	s, err := c.OpenRequestStream(context.Background())
	if err != nil {
		return nil, err
	}
	s.SetDeadline(time.Now().Add(testkit.Patience))
	return s, s.SendRequestHeader((&http.Request{Method: http.MethodConnect, Proto: "websocket", Host: "server.example.com",
		URL: &url.URL{Scheme: "https", Host: c.addr, Path: path}, Header: http.Header{"Sec-Websocket-Version": {"13"}}}).WithContext(context.Background()))
}

// tunnel opens a tunnel to u.
func (c *h3) tunnel(t *testing.T, u *testkit.Upstream) (*http3.RequestStream, *testkit.Peer) {
	t.Helper()
	s := c.open(t, "/chat")
	server := u.Accept(t)
	server.Switch(t, "Sec-WebSocket-Protocol: chat\r\n")
	res, err := s.ReadResponse()
	require.NoError(t, err)
	require.Equal(t, 200, res.StatusCode)
	require.Equal(t, "chat", res.Header.Get("Sec-Websocket-Protocol"))
	return s, server
}

func TestATunnelOverHTTP3EndsAsOneOverHTTP2(t *testing.T) {
	for name, test := range map[string]struct {
		end    func(t *testing.T, p *wsproxy.Proxy, client *http3.RequestStream, server *testkit.Peer)
		reason wsproxy.Reason
	}{
		"the client's FIN": {func(t *testing.T, _ *wsproxy.Proxy, client *http3.RequestStream, server *testkit.Peer) {
			client.Close()
			server.ExpectEOF(t, "")
			server.Send(t, "more")
			server.Close()
			rest, err := io.ReadAll(client)
			assert.NoError(t, err)
			assert.Equal(t, "more", string(rest))
		}, wsproxy.ReasonClientClosed},
		"the client's reset": {func(t *testing.T, _ *wsproxy.Proxy, client *http3.RequestStream, server *testkit.Peer) {
			client.CancelWrite(quic.StreamErrorCode(http3.ErrCodeRequestCanceled))
			client.CancelRead(quic.StreamErrorCode(http3.ErrCodeRequestCanceled))
			_, err := server.Read(make([]byte, 1))
			assert.True(t, testkit.IsReset(err), "got %v, want a reset", err)
		}, wsproxy.ReasonClientClosed},
		"the upstream's FIN": {func(t *testing.T, _ *wsproxy.Proxy, client *http3.RequestStream, server *testkit.Peer) {
			server.Close()
			rest, err := io.ReadAll(client)
			assert.NoError(t, err)
			assert.Empty(t, rest)
		}, wsproxy.ReasonUpstreamClosed},
		"the upstream's reset": {func(t *testing.T, _ *wsproxy.Proxy, client *http3.RequestStream, server *testkit.Peer) {
			server.Reset()
			_, err := io.ReadAll(client)
			var reset *http3.Error
			assert.ErrorAs(t, err, &reset)
		}, wsproxy.ReasonUpstreamClosed},
		"Proxy.Close": {func(t *testing.T, p *wsproxy.Proxy, client *http3.RequestStream, server *testkit.Peer) {
			p.Close()
			server.Rest(t, "the upstream's")
			_, err := io.ReadAll(client)
			var reset *http3.Error
			assert.ErrorAs(t, err, &reset)
		}, wsproxy.ReasonKilled},
	} {
		t.Run(name, func(t *testing.T) {
			ended, u := testkit.NewEndings(), testkit.NewUpstream(t)
			p := testkit.NewProxy(t, u.URL, ended.Option())
			client, server := dialHTTP3(t, talk.ServeHTTP3(t, p)).tunnel(t, u)
			_, err := client.Write([]byte("hello"))
			require.NoError(t, err)
			server.Expect(t, "hello")
			server.Send(t, "welcome")
			got := make([]byte, 7)
			_, err = io.ReadFull(client, got)
			require.NoError(t, err)
			test.end(t, p, client, server)
			assert.Equal(t, test.reason, ended.Next(t).Reason)
		})
	}
}

func TestAnUpgradeOverHTTP3IsRefusedWithTheConnectionOpen(t *testing.T) {
	u := testkit.NewUpstream(t)
	u.Respond("HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\nbanned")
	c := dialHTTP3(t, talk.ServeHTTP3(t, testkit.NewProxy(t, u.URL)))
	for range 2 {
		s, res := c.connect(t, "/")
		text, err := io.ReadAll(res.Body)
		assert.NoError(t, err)
		assert.Equal(t, 403, res.StatusCode)
		assert.Equal(t, "banned", string(text))
		s.CancelWrite(quic.StreamErrorCode(http3.ErrCodeNoError))
	}
}

// The proxy's own frames need no read to end on a stream that nobody wakes.
func TestDrainReachesTunnelsOverHTTP3(t *testing.T) {
	u := testkit.NewUpstream(t)
	p := testkit.NewProxy(t, u.URL)
	client, server := dialHTTP3(t, talk.ServeHTTP3(t, p)).tunnel(t, u)
	done := make(chan error, 1)
	go func() { done <- p.Shutdown(t.Context()) }()
	end := testkit.End{Peer: server, Client: false}
	end.ExpectClose(t, 1001)
	end.SendFrame(t, testkit.Close, testkit.ClosePayload(1001, ""))
	head := make([]byte, 4)
	_, err := io.ReadFull(client, head)
	require.NoError(t, err)
	assert.Equal(t, []byte{0x88, head[1], 0x03, 0xe9}, head)
	_, err = io.WriteString(client, testkit.Frame{First: testkit.Close, Masked: true, Payload: testkit.ClosePayload(1001, "")}.String())
	require.NoError(t, err)
	_, err = io.ReadAll(client)
	assert.NoError(t, err, "an orderly end")
	assert.NoError(t, testkit.Within(t, done, "the end of Shutdown"))
}

// http.ReadResponse accepts a name with a space. quic-go sent it, and its client
// and browsers drop a response with such a field.
func TestAMalformedFieldOfTheUpstreamsDoesNotFailAHandshakeOverHTTP3(t *testing.T) {
	u := testkit.NewUpstream(t)
	p := testkit.NewProxy(t, u.URL, wsproxy.WithModifyResponse(func(res *http.Response) error {
		res.Header["X-Lines"] = []string{"a\r\nb"}
		return nil
	}))
	c := dialHTTP3(t, talk.ServeHTTP3(t, p))
	s := c.open(t, "/")
	u.Accept(t).Switch(t, "Two Words: 1\r\nX-Own: 1\r\n")
	res, err := s.ReadResponse()
	require.NoError(t, err)
	assert.Equal(t, 200, res.StatusCode)
	assert.Equal(t, "1", res.Header.Get("X-Own"))
	assert.NotContains(t, res.Header, "X-Lines")

	s = c.open(t, "/")
	server := u.Accept(t)
	server.Request(t)
	server.Send(t, "HTTP/1.1 403 Forbidden\r\nTwo Words: 1\r\nContent-Length: 6\r\n\r\nbanned")
	res, err = s.ReadResponse()
	require.NoError(t, err)
	assert.Equal(t, 403, res.StatusCode)
}
