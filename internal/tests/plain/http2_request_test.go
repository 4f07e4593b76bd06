package plain_test

import (
	"encoding/binary"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// serveHTTP2 runs h on a net/http server that speaks HTTP/2 without TLS.
func serveHTTP2(t testing.TB, h http.Handler) string {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// An http2Peer sends requests that net/http's client refuses to send.
type http2Peer struct {
	*testkit.Peer
	stream uint32
}

func dialHTTP2(t testing.TB, addr string) *http2Peer {
	t.Helper()
	c := &http2Peer{testkit.Dial(t, addr), 1}
	c.Send(t, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+http2Frame(4, 0, 0, ""))
	return c
}

// http2Frame is the wire form of a frame (RFC 9113, section 4.1).
func http2Frame(kind, flags byte, stream uint32, payload string) string {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(payload))<<8|uint32(kind))
	return string(binary.BigEndian.AppendUint32(append(b, flags), stream)) + payload
}

// ask sends a request without a body, with its fields as pairs, and returns the
// beginning of the response's header block, which encodes the status.
func (c *http2Peer) ask(t testing.TB, fields ...string) string {
	t.Helper()
	var block strings.Builder
	for i, text := range fields {
		if i%2 == 0 {
			block.WriteByte(0) // RFC 7541, section 6.2.2: a literal with a new name
		}
		block.WriteByte(byte(len(text))) // below 127
		block.WriteString(text)
	}
	const headers, endOfBoth = 1, 0x5
	c.Send(t, http2Frame(headers, endOfBoth, c.stream, block.String()))
	for {
		var header [9]byte
		_, err := io.ReadFull(c, header[:])
		require.NoError(t, err)
		payload := make([]byte, binary.BigEndian.Uint32(header[:4])>>8)
		_, err = io.ReadFull(c, payload)
		require.NoError(t, err)
		if binary.BigEndian.Uint32(header[5:]) != c.stream {
			continue
		}
		c.stream += 2
		if header[3] != headers {
			return "no response"
		}
		return string(payload)
	}
}

// The header blocks of net/http's server begin with one of these statuses (RFC
// 7541, appendix A).
var http2Statuses = map[int]string{200: "\x88", 400: "\x8c"}

// A bad :authority or method caused a 502 and a logged warning, because
// net/http checks them only in HTTP/1.
func TestABadHTTP2RequestCauses400(t *testing.T) {
	u := testkit.NewUpstream(t)
	u.Respond(testkit.ResponseOKClose)
	errs := testkit.NewFailures()
	var log testkit.Buffer
	p := testkit.NewProxy(t, u.URL, errs.Option(), wsproxy.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
	c := dialHTTP2(t, serveHTTP2(t, p))
	for _, bad := range []struct{ method, authority, path, says string }{
		{"GET", "a b", "/", `Host "a b", want`},
		{"GET", "a/b", "/", `Host "a/b", want`},
		{"GET", "<script>", "/", `Host "<script>", want`},
		{"GE T", "a", "/", `method "GE T", want`},
		{"GET\"", "a", "/", `method "GET\"", want`},
		{"GET", "a", "/x?a b", `path "/x", want`},
		{"GET", "a", "/%2e%2e/x", `path "/../x", want`},
		{"GET", "a", "*", `target "*", want`},
	} {
		status := c.ask(t, ":method", bad.method, ":scheme", "http", ":authority", bad.authority, ":path", bad.path)
		if status == "no response" {
			continue // net/http has refused it, as some versions of Go do
		}
		assert.True(t, strings.HasPrefix(status, http2Statuses[400]), "status %x for %v", status, bad)
		err := errs.Next(t).Err
		assert.Equal(t, 400, wsproxy.StatusCode(err))
		assert.ErrorContains(t, err, bad.says)
		assert.NotErrorIs(t, err, wsproxy.ErrUpstream)
	}
	assert.Empty(t, log.String(), "a client's mistake is logged")
	status := c.ask(t, ":method", "GET", ":scheme", "http", ":authority", "a_b~:80", ":path", "/x?a")
	assert.True(t, strings.HasPrefix(status, http2Statuses[200]), "status %x", status)
}
