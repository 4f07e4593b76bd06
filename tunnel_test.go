package wsproxy_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"example.com/wsproxy"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// noise returns n bytes that no two seeds have in common.
func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// exchangeAll sends up from the client and down from the server at once, each
// followed by an end of stream, and checks what arrives at the other end.
func exchangeAll(t *testing.T, client, server *peer, up, down []byte) {
	t.Helper()
	var wg sync.WaitGroup
	send := func(from *peer, b []byte, name string) {
		wg.Go(func() {
			_, err := from.Write(b)
			assert.NoError(t, err, "the %s sends", name)
			assert.NoError(t, from.CloseWrite(), "the %s half-closes", name)
		})
	}
	receive := func(at *peer, want []byte, name string) {
		wg.Go(func() {
			hash := sha256.New()
			n, err := io.Copy(hash, at)
			assert.NoError(t, err, "the %s receives", name)
			assert.EqualValues(t, len(want), n, "bytes that reach the %s", name)
			assert.Equal(t, sha256.Sum256(want), [32]byte(hash.Sum(nil)), "hash of what reaches the %s", name)
		})
	}
	send(client, up, "client")
	send(server, down, "upstream")
	receive(server, up, "upstream")
	receive(client, down, "client")
	wg.Wait()
}

func TestEveryByteCrossesBothWaysAtOnce(t *testing.T) {
	sizes := []int{1, 511, 512, 513, 16383, 16384, 16385, 32767, 32768, 32769, 1 << 20, 8 << 20}
	up, down := noise(1, 8<<20), noise(2, 8<<20)
	overLinks(t, nil, func(t *testing.T, l link) {
		ended := newEndings()
		r := l.start(t, nil, ended.hook())
		for _, size := range sizes {
			client, server := r.tunnel(t)
			exchangeAll(t, client, server, up[:size], down[:size])
			ending := ended.next(t)
			assert.EqualValues(t, size, ending.FromClient.Bytes, "the ending's count of the client's bytes")
			assert.EqualValues(t, size, ending.FromUpstream.Bytes, "the ending's count of the upstream's bytes")
			assert.NoError(t, ending.Err, "an orderly tunnel of %d bytes", size)
		}
	})
}

// Messages of which nothing follows must not wait for more, whatever buffer
// they just fill.
func TestAMessageOfAnySizeArrivesWhileTheTunnelStaysOpen(t *testing.T) {
	overLinks(t, nil, func(t *testing.T, l link) {
		client, server := l.start(t, nil).tunnel(t)
		for _, size := range []int{1, 511, 512, 513, 1024, 16383, 16384, 16385, 32767, 32768, 32769, 65536} {
			for _, way := range []struct {
				name     string
				from, to *peer
			}{{"client to upstream", client, server}, {"upstream to client", server, client}} {
				want, got := noise(byte(size), size), make([]byte, size)
				_, err := way.from.Write(want)
				require.NoError(t, err)
				_, err = io.ReadFull(way.to, got)
				require.NoError(t, err, "%d bytes, %s", size, way.name)
				require.True(t, bytes.Equal(want, got), "%d bytes, %s", size, way.name)
			}
		}
	})
}

// An ssh channel, for one, knows no deadlines; nothing may depend on them.
func TestTLSOverAConnectionWithoutDeadlinesLosesAndDelaysNothing(t *testing.T) {
	for name, deadlineErr := range map[string]error{
		"refused": errors.New("deadlines are not supported"),
		"ignored": nil,
	} {
		t.Run(name, func(t *testing.T) {
			l := link{tlsUpstream: true}
			r := l.start(t, nil, wsproxy.WithDialContext(func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := new(net.Dialer).DialContext(ctx, network, addr)
				return noDeadlines{conn, deadlineErr}, err
			}))
			client, server := r.tunnel(t)
			for _, size := range []int{100, 512, 5000, 100_000} {
				client.SetDeadline(time.Now().Add(patience))
				message := noise(3, size)
				server.send(t, string(message))
				got := make([]byte, size)
				n, err := io.ReadFull(client, got)
				require.NoError(t, err, "after %d bytes of a message of %d", n, size)
				require.True(t, bytes.Equal(message, got), "a message of %d bytes is changed", size)
			}
		})
	}
}

type noDeadlines struct {
	net.Conn
	err error
}

func (c noDeadlines) SetDeadline(time.Time) error      { return c.err }
func (c noDeadlines) SetReadDeadline(time.Time) error  { return c.err }
func (c noDeadlines) SetWriteDeadline(time.Time) error { return c.err }

// golang/go#35892: the bytes after the other side's end were lost.
func TestTheUpstreamGoesOnSendingAfterTheClientHalfCloses(t *testing.T) {
	overLinks(t, nil, func(t *testing.T, l link) {
		ended := newEndings()
		client, server := l.start(t, nil, ended.hook()).tunnel(t)
		client.send(t, "last words")
		require.NoError(t, client.CloseWrite())
		server.expectEOF(t, "last words")
		rest := string(noise(4, 1<<20))
		go func() {
			io.WriteString(server, rest)
			server.Close()
		}()
		client.expectEOF(t, rest)
		assert.Equal(t, wsproxy.ClientClosed, ended.next(t).Reason)
	})
}

// caddyserver/caddy#8026 is the same in the other direction.
func TestTheClientGoesOnSendingAfterTheUpstreamHalfCloses(t *testing.T) {
	overLinks(t, nil, func(t *testing.T, l link) {
		ended := newEndings()
		client, server := l.start(t, nil, ended.hook()).tunnel(t)
		server.send(t, "last words")
		require.NoError(t, server.CloseWrite())
		client.expectEOF(t, "last words")
		rest := string(noise(5, 1<<20))
		go func() {
			io.WriteString(client, rest)
			client.Close()
		}()
		server.expectEOF(t, rest)
		assert.Equal(t, wsproxy.UpstreamClosed, ended.next(t).Reason)
	})
}

func TestBothSidesMayHalfCloseAtOnce(t *testing.T) {
	overLinks(t, nil, func(t *testing.T, l link) {
		ended := newEndings()
		r := l.start(t, nil, ended.hook())
		for range 20 {
			client, server := r.tunnel(t)
			exchangeAll(t, client, server, []byte("from client"), []byte("from upstream"))
			ending := ended.next(t)
			assert.Contains(t, []wsproxy.Reason{wsproxy.ClientClosed, wsproxy.UpstreamClosed}, ending.Reason)
			assert.NoError(t, ending.Err)
		}
	})
}

func TestMessagesAfterAHalfCloseArriveOneByOneBeforeTheClose(t *testing.T) {
	overLinks(t, nil, func(t *testing.T, l link) {
		client, server := l.start(t, nil).tunnel(t)
		require.NoError(t, client.CloseWrite())
		server.expectEOF(t, "")
		for i := range 20 {
			message := fmt.Sprint("message ", i)
			server.send(t, message)
			client.expect(t, message)
		}
		require.NoError(t, server.Close())
		client.expectEOF(t, "")
	})
}

// A pipe cannot be told of the other side's end but by its own.
func TestWithoutHalfCloseTheTunnelEndsAtTheFirstEnd(t *testing.T) {
	for _, first := range []wsproxy.Reason{wsproxy.ClientClosed, wsproxy.UpstreamClosed} {
		t.Run(first.String(), func(t *testing.T) {
			ended := newEndings()
			near, far := net.Pipe()
			far.SetDeadline(time.Now().Add(patience))
			_, addr := serveProxy(t, "http://pipe", ended.hook(), wsproxy.WithCloseTimeout(time.Hour),
				wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) { return near, nil }))
			client, server := dial(t, addr), newPeer(far)
			client.send(t, sampleRequest)
			server.request(t)
			server.send(t, sampleSwitch)
			client.answer(t)
			server.send(t, "hello")
			client.expect(t, "hello")
			if first == wsproxy.ClientClosed {
				require.NoError(t, client.CloseWrite())
			} else {
				server.send(t, "bye")
				server.Close()
				client.expectEOF(t, "bye")
				client.Close() // which can be half-closed
			}
			ending := ended.next(t)
			assert.Equal(t, first, ending.Reason)
			assert.NoError(t, ending.Err)
			_, err := server.Read(make([]byte, 1))
			assert.Error(t, err, "the upstream's end is closed")
		})
	}
}
