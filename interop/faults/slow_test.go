//go:build linux

package faults_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const slowHandshake = "GET /echo HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"

// trickle sends a byte every 20 ms until a write fails, and returns how many it
// sent.
func trickle(w io.Writer, s []byte) (n int) {
	pace := time.NewTicker(20 * time.Millisecond)
	defer pace.Stop()
	for ; n < len(s); n++ {
		if _, err := w.Write(s[n : n+1]); err != nil {
			break
		}
		<-pace.C
	}
	return n
}

func TestASlowHandshakeIsClosedByReadHeaderTimeoutAndNeverReachesTheUpstream(t *testing.T) {
	bothKinds(t, func(t *testing.T, secure bool) {
		p, up := startPair(t, role{TLS: secure, ReadHeaderTimeout: 1500 * time.Millisecond})
		c, err := p.raw()
		require.NoError(t, err)
		defer c.Close()
		n := trickle(c, []byte(slowHandshake))
		assert.Less(t, n, len(slowHandshake), "bytes that the server took")
		_, err = io.ReadAll(c.r)
		assert.False(t, timedOut(err), "the client's connection stays open: %v", err)
		assert.Zero(t, up.ask(t, "report").Accepted, "connections to the upstream")
		settled(t, p, up)
	})
}

// A recorder records a TLS client's first flight.
type recorder struct {
	net.Conn
	b bytes.Buffer
}

func (r *recorder) Write(p []byte) (int, error)      { return r.b.Write(p) }
func (r *recorder) Read([]byte) (int, error)         { return 0, io.EOF }
func (r *recorder) SetDeadline(time.Time) error      { return nil }
func (r *recorder) SetReadDeadline(time.Time) error  { return nil }
func (r *recorder) SetWriteDeadline(time.Time) error { return nil }

func TestASlowTLSHandshakeIsClosedByReadHeaderTimeout(t *testing.T) {
	t.Parallel()
	p, up := startPair(t, role{TLS: true, ReadHeaderTimeout: 1500 * time.Millisecond})
	hello := new(recorder)
	require.Error(t, tls.Client(hello, p.tls).Handshake())
	conn, err := net.Dial("tcp", p.addr)
	require.NoError(t, err)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	assert.Less(t, trickle(conn, hello.b.Bytes()), hello.b.Len(), "bytes that the server took")
	_, err = io.ReadAll(conn)
	assert.False(t, timedOut(err), "the client's connection stays open: %v", err)
	assert.Zero(t, up.ask(t, "report").Accepted, "connections to the upstream")
	settled(t, p, up)
}

func TestTheServersReadAndWriteTimeoutsApplyToPlainRequestsAndNotToTunnels(t *testing.T) {
	bothKinds(t, func(t *testing.T, secure bool) {
		const timeout = 1500 * time.Millisecond
		p, up := startPair(t, role{TLS: secure, ReadTimeout: timeout, WriteTimeout: timeout})
		began := time.Now()
		tunnel := p.client(t, "/echo")

		c, err := p.raw()
		require.NoError(t, err)
		defer c.Close()
		_, err = io.WriteString(c, "POST /body HTTP/1.1\r\nHost: example.com\r\nContent-Length: 1000\r\n\r\n")
		require.NoError(t, err)
		assert.Less(t, trickle(c, make([]byte, 1000)), 1000, "bytes of a slow body that the server took")
		_, err = io.ReadAll(c.r)
		assert.False(t, timedOut(err), "the client's connection stays open: %v", err)
		eventually(t, func() bool { return time.Since(began) > 2*timeout }, "time does not pass")

		tunnel.sendText(t, "after both timeouts")
		tunnel.expectText(t, "after both timeouts")
		tunnel.leave(t)
		settled(t, p, up)
	})
}

func TestASlowBodyArrivesIfTheServerHasNoTimeouts(t *testing.T) {
	bothKinds(t, func(t *testing.T, secure bool) {
		// The library's read timeout applies to the response. It does not apply
		// while the body is still arriving.
		p, up := startPair(t, role{TLS: secure, Read: 1500 * time.Millisecond})
		c, err := p.raw()
		require.NoError(t, err)
		defer c.Close()
		_, err = io.WriteString(c, "POST /body HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\nContent-Length: 150\r\n\r\n")
		require.NoError(t, err)
		require.Equal(t, 150, trickle(c, make([]byte, 150)), "bytes that the server took")
		res, err := http.ReadResponse(bufio.NewReader(c.r), nil)
		require.NoError(t, err)
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		assert.Equal(t, "150 <nil>", string(body))
		c.Close()
		settled(t, p, up)
	})
}

func TestAClientThatDisconnectsDuringItsBodyLeavesNothingBehind(t *testing.T) {
	bothKinds(t, func(t *testing.T, secure bool) {
		p, up := startPair(t, role{TLS: secure})
		c, err := p.raw()
		require.NoError(t, err)
		_, err = io.WriteString(c, "POST /body HTTP/1.1\r\nHost: example.com\r\nContent-Length: 1000\r\n\r\nhalf")
		require.NoError(t, err)
		eventually(t, func() bool { return up.ask(t, "report").Accepted == 1 }, "the request does not reach the upstream")
		c.reset()
		settled(t, p, up)
	})
}
