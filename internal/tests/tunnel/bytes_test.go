package tunnel_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// exchangeAll sends up from the client and down from the server at once, each
// followed by an end of stream, and checks what arrives at the other end. If
// serverLast is set, the server ends its stream after it has read the client's.
func exchangeAll(t *testing.T, client, server *testkit.Peer, up, down []byte, serverLast bool) {
	t.Helper()
	var wg sync.WaitGroup
	arrived := make(chan struct{}) // all that the client sends
	send := func(from *testkit.Peer, b []byte, name string) {
		wg.Go(func() {
			_, err := from.Write(b)
			assert.NoError(t, err, "the %s sends", name)
			if from == server && serverLast {
				<-arrived
			}
			assert.NoError(t, from.CloseWrite(), "the %s half-closes", name)
		})
	}
	receive := func(at *testkit.Peer, want []byte, name string) {
		wg.Go(func() {
			if at == server {
				defer close(arrived)
			}
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

func TestEveryByteArrivesInBothDirectionsAtOnce(t *testing.T) {
	t.Parallel()
	sizes := []int{1, 511, 512, 513, 16383, 16384, 16385, 32767, 32768, 32769, 1 << 20, 8 << 20}
	up, down := testkit.Noise(1, 8<<20), testkit.Noise(2, 8<<20)
	testkit.OverLinks(t, nil, func(t *testing.T, l testkit.Link) {
		ended := testkit.NewEndings()
		r := l.Start(t, nil, ended.Option())
		for _, size := range sizes {
			client, server := r.Tunnel(t)
			exchangeAll(t, client, server, up[:size], down[:size], l.HTTP2) // a stream has a second for the rest
			ending := ended.Next(t)
			assert.EqualValues(t, size, ending.FromClient.Bytes, "the ending's count of the client's bytes")
			assert.EqualValues(t, size, ending.FromUpstream.Bytes, "the ending's count of the upstream's bytes")
			assert.NoError(t, ending.Err, "an orderly tunnel of %d bytes", size)
		}
	})
}

// The last message must not wait for more bytes, even if it exactly fills a
// buffer.
func TestAMessageOfAnySizeArrivesWhileTheTunnelStaysOpen(t *testing.T) {
	testkit.OverLinks(t, nil, func(t *testing.T, l testkit.Link) {
		client, server := l.Start(t, nil).Tunnel(t)
		for _, size := range []int{1, 511, 512, 513, 1024, 16383, 16384, 16385, 32767, 32768, 32769, 65536} {
			for _, way := range []struct {
				name     string
				from, to *testkit.Peer
			}{{"client to upstream", client, server}, {"upstream to client", server, client}} {
				want, got := testkit.Noise(byte(size), size), make([]byte, size)
				_, err := way.from.Write(want)
				require.NoError(t, err)
				_, err = io.ReadFull(way.to, got)
				require.NoError(t, err, "%d bytes, %s", size, way.name)
				require.True(t, bytes.Equal(want, got), "%d bytes, %s", size, way.name)
			}
		}
	})
}

// Some connections, such as an ssh channel, support no deadlines. The relay
// must not depend on them.
func TestTLSOverAConnectionWithoutDeadlinesLosesAndDelaysNothing(t *testing.T) {
	for name, deadlineErr := range map[string]error{
		"refused": errors.New("deadlines are not supported"),
		"ignored": nil,
	} {
		t.Run(name, func(t *testing.T) {
			l := testkit.Link{TLSUpstream: true}
			r := l.Start(t, nil, wsproxy.WithDialContext(func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := new(net.Dialer).DialContext(ctx, network, addr)
				return noDeadlines{conn, deadlineErr}, err
			}))
			client, server := r.Tunnel(t)
			for _, size := range []int{100, 512, 5000, 100_000} {
				client.SetDeadline(time.Now().Add(testkit.Patience))
				message := testkit.Noise(3, size)
				server.Send(t, string(message))
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
