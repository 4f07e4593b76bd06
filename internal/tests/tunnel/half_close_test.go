package tunnel_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestEitherSideCanStopReadingOrWriting(t *testing.T) {
	closeRead := func(t *testing.T, p *testkit.Peer) {
		require.NoError(t, p.Socket().(interface{ CloseRead() error }).CloseRead())
	}
	testkit.OverLinks(t, testkit.OwnSocket, func(t *testing.T, l testkit.Link) {
		testkit.EachSide(t, func(t *testing.T, side wsproxy.Reason) {
			r := l.Start(t, nil)

			client, server := r.Tunnel(t)
			from, to := testkit.InOrder(side, client, server)
			closeRead(t, from)
			for range 3 {
				from.Send(t, "from the side that stopped reading")
				to.Expect(t, "from the side that stopped reading")
			}

			client, server = r.Tunnel(t)
			from, to = testkit.InOrder(side, client, server)
			require.NoError(t, from.CloseWrite())
			for range 3 {
				to.Send(t, "to the side that stopped writing")
				from.Expect(t, "to the side that stopped writing")
			}
			to.ExpectEOF(t, "")
			to.Close()
			from.ExpectEOF(t, "")
		})
	})
}

// golang/go#35892: the bytes after the other side's end were lost.
func TestTheUpstreamCanSendAfterTheClientHalfCloses(t *testing.T) {
	testkit.OverLinks(t, nil, func(t *testing.T, l testkit.Link) {
		ended := testkit.NewEndings()
		client, server := l.Start(t, nil, ended.Option()).Tunnel(t)
		client.Send(t, "last words")
		require.NoError(t, client.CloseWrite())
		server.ExpectEOF(t, "last words")
		rest := string(testkit.Noise(4, 1<<20))
		go func() {
			io.WriteString(server, rest)
			server.Close()
		}()
		client.ExpectEOF(t, rest)
		assert.Equal(t, wsproxy.ReasonClientClosed, ended.Next(t).Reason)
	})
}

// caddyserver/caddy#8026 is the same in the other direction.
func TestTheClientCanSendAfterTheUpstreamHalfCloses(t *testing.T) {
	testkit.OverLinks(t, testkit.OwnSocket, func(t *testing.T, l testkit.Link) {
		ended := testkit.NewEndings()
		client, server := l.Start(t, nil, ended.Option()).Tunnel(t)
		server.Send(t, "last words")
		require.NoError(t, server.CloseWrite())
		client.ExpectEOF(t, "last words")
		rest := string(testkit.Noise(5, 1<<20))
		go func() {
			io.WriteString(client, rest)
			client.Close()
		}()
		server.ExpectEOF(t, rest)
		assert.Equal(t, wsproxy.ReasonUpstreamClosed, ended.Next(t).Reason)
	})
}

func TestBothSidesCanHalfCloseAtOnce(t *testing.T) {
	t.Parallel()
	testkit.OverLinks(t, nil, func(t *testing.T, l testkit.Link) {
		ended := testkit.NewEndings()
		r := l.Start(t, nil, ended.Option())
		for range 20 {
			client, server := r.Tunnel(t)
			exchangeAll(t, client, server, []byte("from client"), []byte("from upstream"), false)
			ending := ended.Next(t)
			assert.Contains(t, []wsproxy.Reason{wsproxy.ReasonClientClosed, wsproxy.ReasonUpstreamClosed}, ending.Reason)
			assert.NoError(t, ending.Err)
		}
	})
}

func TestMessagesAfterAHalfCloseArriveAsTheyAreSent(t *testing.T) {
	testkit.OverLinks(t, nil, func(t *testing.T, l testkit.Link) {
		client, server := l.Start(t, nil).Tunnel(t)
		require.NoError(t, client.CloseWrite())
		server.ExpectEOF(t, "")
		for i := range 20 {
			message := fmt.Sprint("message ", i)
			server.Send(t, message)
			client.Expect(t, message)
		}
		require.NoError(t, server.Close())
		client.ExpectEOF(t, "")
	})
}

// A pipe cannot be half-closed. Closing it is the only way to signal EOF.
func TestAConnectionWithoutHalfCloseEndsItsTunnelAtTheFirstEOF(t *testing.T) {
	for _, first := range []wsproxy.Reason{wsproxy.ReasonClientClosed, wsproxy.ReasonUpstreamClosed} {
		t.Run(first.String(), func(t *testing.T) {
			ended := testkit.NewEndings()
			near, far := net.Pipe()
			far.SetDeadline(time.Now().Add(testkit.Patience))
			_, addr := testkit.ServeProxy(t, "http://pipe", ended.Option(), wsproxy.WithCloseTimeout(time.Hour),
				wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) { return near, nil }))
			client, server := testkit.Dial(t, addr), testkit.NewPeer(far)
			client.Send(t, testkit.SampleRequest)
			server.Request(t)
			server.Send(t, testkit.SampleSwitch)
			client.Response(t)
			server.Send(t, "hello")
			client.Expect(t, "hello")
			if first == wsproxy.ReasonClientClosed {
				require.NoError(t, client.CloseWrite())
			} else {
				server.Send(t, "bye")
				server.Close()
				client.ExpectEOF(t, "bye")
				client.Close() // this side could be half-closed
			}
			ending := ended.Next(t)
			assert.Equal(t, first, ending.Reason)
			assert.NoError(t, ending.Err)
			_, err := server.Read(make([]byte, 1))
			assert.Error(t, err, "the upstream's end is closed")
		})
	}
}
