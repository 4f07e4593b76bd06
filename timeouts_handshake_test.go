package wsproxy_test

import (
	"context"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// gatewayTimeout checks that the client's answer is a 504 and takes exactly d.
func gatewayTimeout(t *testing.T, client *peer, d time.Duration) {
	t.Helper()
	start := time.Now()
	assert.Equal(t, http.StatusGatewayTimeout, client.answer(t).StatusCode)
	assert.Equal(t, d, time.Since(start), "the answer comes after")
}

func TestADialThatTakesLongerThanTheConnectTimeoutIsA504(t *testing.T) {
	hangs := wsproxy.WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	synctest.Test(t, func(t *testing.T) {
		gatewayTimeout(t, newMemRig(t, nil, hangs).ask(t), time.Minute)
	})
	synctest.Test(t, func(t *testing.T) {
		r := newMemRig(t, nil, hangs, wsproxy.WithConnectTimeout(3*time.Second))
		gatewayTimeout(t, r.ask(t), 3*time.Second)
	})
}

func TestTheConnectTimeoutIncludesTheTLSHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := newMemConns(room)
		r := newMemRigTo(t, "https://upstream", nil, wsproxy.WithConnectTimeout(10*time.Second),
			wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) {
				time.Sleep(4 * time.Second)
				return near, nil // nobody answers the ClientHello
			}))
		gatewayTimeout(t, r.ask(t), 10*time.Second)
		_, err := far.Write([]byte("x"))
		assert.Error(t, err, "the connection is closed")
	})
}

func TestWithoutAConnectTimeoutADialMayTakeForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := newMemConns(room)
		r := newMemRig(t, nil, wsproxy.WithConnectTimeout(0), wsproxy.WithDialContext(
			func(context.Context, string, string) (net.Conn, error) {
				time.Sleep(1000 * time.Hour)
				return near, nil
			}))
		client, server := r.ask(t), newPeer(far)
		server.request(t)
		server.send(t, sampleSwitch)
		assert.Equal(t, http.StatusSwitchingProtocols, client.answer(t).StatusCode)
	})
}

func TestAnAnswerThatTakesLongerThanTheReadTimeoutIsA504(t *testing.T) {
	for _, test := range []struct {
		opts []wsproxy.Option
		want time.Duration
	}{
		{nil, time.Minute},
		{[]wsproxy.Option{wsproxy.WithReadTimeout(3 * time.Second)}, 3 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newMemRig(t, nil, test.opts...)
			client := r.ask(t)
			server := <-r.upstreams
			server.request(t)
			gatewayTimeout(t, client, test.want)
			server.expectEOF(t, "")
		})
	}
}

// A header that drips held a place for a tunnel as long as it dripped.
func TestAHeaderThatIsNotWholeWithinTheReadTimeoutIsA504(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newMemRig(t, nil, wsproxy.WithMaxTunnels(1))
		start := time.Now()
		client := r.ask(t)
		server := <-r.upstreams
		server.request(t)
		for _, c := range sampleSwitch[:11] {
			time.Sleep(5 * time.Second)
			server.send(t, string(c))
		}
		assert.Equal(t, http.StatusGatewayTimeout, client.answer(t).StatusCode)
		assert.Equal(t, time.Minute, time.Since(start), "from the end of the request")
		server.expectEOF(t, "")
		client.Close()
		second, upstream := r.tunnel(t)
		second.Close()
		upstream.Close()
	})
}

// Informational responses do not start the time anew.
func TestInformationalResponsesDoNotExtendTheReadTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newMemRig(t, nil)
		start := time.Now()
		client := r.ask(t)
		server := <-r.upstreams
		server.request(t)
		for range 5 {
			time.Sleep(11 * time.Second)
			server.send(t, "HTTP/1.1 103 Early Hints\r\n\r\n")
			assert.Equal(t, http.StatusEarlyHints, client.answer(t).StatusCode)
		}
		assert.Equal(t, http.StatusGatewayTimeout, client.answer(t).StatusCode)
		assert.Equal(t, time.Minute, time.Since(start))
	})
}

// A client that takes its time over an informational response must not make
// its server a slow one.
func TestTheTimeAClientTakesForA103IsNotTheServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newMemRig(t, nil)
		client := r.ask(t)
		server := <-r.upstreams
		server.request(t)
		hint := "HTTP/1.1 103 Early Hints\r\nLink: " + strings.Repeat("x", room) + "\r\n\r\n"
		server.send(t, hint)
		time.Sleep(50 * time.Second)
		assert.Equal(t, http.StatusEarlyHints, client.answer(t).StatusCode)
		time.Sleep(50 * time.Second)
		server.send(t, sampleSwitch)
		assert.Equal(t, http.StatusSwitchingProtocols, client.answer(t).StatusCode)
		server.Close()
		client.Close()
	})
}

func TestTheReadTimeoutOfAResponseBodyIsBetweenTwoReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newMemRig(t, nil)
		client := r.ask(t)
		server := <-r.upstreams
		server.request(t)
		server.send(t, "HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\n")
		for _, c := range "hello" {
			time.Sleep(59 * time.Second)
			server.send(t, string(c))
		}
		assert.Equal(t, "hello", body(t, client.answer(t)))
	})
}

func TestWithoutAReadTimeoutAnAnswerMayTakeForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newMemRig(t, nil, wsproxy.WithReadTimeout(0))
		client := r.ask(t)
		server := <-r.upstreams
		server.request(t)
		time.Sleep(1000 * time.Hour)
		server.send(t, sampleSwitch)
		assert.Equal(t, http.StatusSwitchingProtocols, client.answer(t).StatusCode)
		server.Close()
		client.Close()
	})
}

func TestARequestThatTheUpstreamDoesNotTakeIsA504AtTheSendTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newMemRig(t, nil, wsproxy.WithSendTimeout(5*time.Second), wsproxy.WithDialContext(
			func(context.Context, string, string) (net.Conn, error) {
				near, _ := newMemConns(16)
				return near, nil
			}))
		gatewayTimeout(t, r.ask(t), 5*time.Second)
	})
}

// A timeout of the handshake must not go off in the tunnel.
func TestTheDeadlinesOfTheHandshakeDoNotReachTheTunnel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newMemRig(t, nil, wsproxy.WithConnectTimeout(2*time.Second), wsproxy.WithSendTimeout(2*time.Second))
		client, server := r.tunnel(t)
		for range 10 {
			staysFor(t, r, 45*time.Second)
			client.send(t, "ping")
			server.expect(t, "ping")
			server.send(t, "pong")
			client.expect(t, "pong")
		}
		require.NoError(t, client.Close())
	})
}
