package handshake_test

import (
	"context"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestADialThatTakesLongerThanTheConnectTimeoutCauses504(t *testing.T) {
	hangs := wsproxy.WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	synctest.Test(t, func(t *testing.T) {
		testkit.WantGatewayTimeout(t, testkit.NewMemRig(t, nil, hangs).SendHandshake(t), time.Minute)
	})
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, nil, hangs, wsproxy.WithConnectTimeout(3*time.Second))
		testkit.WantGatewayTimeout(t, r.SendHandshake(t), 3*time.Second)
	})
}

func TestTheConnectTimeoutIncludesTheTLSHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := testkit.NewMemConns(testkit.Room)
		r := testkit.NewMemRigTo(t, "https://upstream", nil, wsproxy.WithConnectTimeout(10*time.Second),
			wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) {
				time.Sleep(4 * time.Second)
				return near, nil // nothing replies to the ClientHello
			}))
		testkit.WantGatewayTimeout(t, r.SendHandshake(t), 10*time.Second)
		_, err := far.Write([]byte("x"))
		assert.Error(t, err, "the connection is closed")
	})
}

func TestWithoutAConnectTimeoutADialIsNotBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := testkit.NewMemConns(testkit.Room)
		r := testkit.NewMemRig(t, nil, wsproxy.WithConnectTimeout(0), wsproxy.WithDialContext(
			func(context.Context, string, string) (net.Conn, error) {
				time.Sleep(1000 * time.Hour)
				return near, nil
			}))
		client, server := r.SendHandshake(t), testkit.NewPeer(far)
		server.Request(t)
		server.Send(t, testkit.SampleSwitch)
		assert.Equal(t, http.StatusSwitchingProtocols, client.Response(t).StatusCode)
	})
}

func TestAResponseThatTakesLongerThanTheReadTimeoutCauses504(t *testing.T) {
	for _, test := range []struct {
		opts []wsproxy.Option
		want time.Duration
	}{
		{nil, time.Minute},
		{[]wsproxy.Option{wsproxy.WithReadTimeout(3 * time.Second)}, 3 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := testkit.NewMemRig(t, nil, test.opts...)
			client := r.SendHandshake(t)
			server := <-r.Upstreams
			server.Request(t)
			testkit.WantGatewayTimeout(t, client, test.want)
			server.ExpectEOF(t, "")
		})
	}
}

// A header that arrived byte by byte held a slot for a tunnel for as long as it
// took.
func TestAHeaderThatIsIncompleteAtTheReadTimeoutCauses504(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, nil, wsproxy.WithMaxTunnels(1))
		start := time.Now()
		client := r.SendHandshake(t)
		server := <-r.Upstreams
		server.Request(t)
		for _, c := range testkit.SampleSwitch[:11] {
			time.Sleep(5 * time.Second)
			server.Send(t, string(c))
		}
		assert.Equal(t, http.StatusGatewayTimeout, client.Response(t).StatusCode)
		assert.Equal(t, time.Minute, time.Since(start), "from the end of the request")
		server.ExpectEOF(t, "")
		client.Close()
		second, upstream := r.Tunnel(t)
		second.Close()
		upstream.Close()
	})
}

// Informational responses do not restart the timeout.
func TestInformationalResponsesDoNotExtendTheReadTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, nil)
		start := time.Now()
		client := r.SendHandshake(t)
		server := <-r.Upstreams
		server.Request(t)
		for range 5 {
			time.Sleep(11 * time.Second)
			server.Send(t, "HTTP/1.1 103 Early Hints\r\n\r\n")
			assert.Equal(t, http.StatusEarlyHints, client.Response(t).StatusCode)
		}
		assert.Equal(t, http.StatusGatewayTimeout, client.Response(t).StatusCode)
		assert.Equal(t, time.Minute, time.Since(start))
	})
}

// A client that reads an informational response slowly must not make its server
// appear slow.
func TestASlowReaderOfA103DoesNotMakeItsServerTimeOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, nil)
		client := r.SendHandshake(t)
		server := <-r.Upstreams
		server.Request(t)
		hint := "HTTP/1.1 103 Early Hints\r\nLink: " + strings.Repeat("x", testkit.Room) + "\r\n\r\n"
		server.Send(t, hint)
		time.Sleep(50 * time.Second)
		assert.Equal(t, http.StatusEarlyHints, client.Response(t).StatusCode)
		time.Sleep(50 * time.Second)
		server.Send(t, testkit.SampleSwitch)
		assert.Equal(t, http.StatusSwitchingProtocols, client.Response(t).StatusCode)
		server.Close()
		client.Close()
	})
}

func TestTheReadTimeoutOfAResponseBodyAppliesToEachRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, nil)
		client := r.SendHandshake(t)
		server := <-r.Upstreams
		server.Request(t)
		server.Send(t, "HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\n")
		for _, c := range "hello" {
			time.Sleep(59 * time.Second)
			server.Send(t, string(c))
		}
		assert.Equal(t, "hello", testkit.Body(t, client.Response(t)))
	})
}

func TestWithoutAReadTimeoutTheWaitForAResponseIsNotBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, nil, wsproxy.WithReadTimeout(0))
		client := r.SendHandshake(t)
		server := <-r.Upstreams
		server.Request(t)
		time.Sleep(1000 * time.Hour)
		server.Send(t, testkit.SampleSwitch)
		assert.Equal(t, http.StatusSwitchingProtocols, client.Response(t).StatusCode)
		server.Close()
		client.Close()
	})
}

func TestARequestThatTheUpstreamDoesNotReadCauses504AtTheSendTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, nil, wsproxy.WithSendTimeout(5*time.Second), wsproxy.WithDialContext(
			func(context.Context, string, string) (net.Conn, error) {
				near, _ := testkit.NewMemConns(16)
				return near, nil
			}))
		testkit.WantGatewayTimeout(t, r.SendHandshake(t), 5*time.Second)
	})
}

// A timeout of the handshake must not fire in the tunnel.
func TestTheDeadlinesOfTheHandshakeDoNotApplyToTheTunnel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, nil, wsproxy.WithConnectTimeout(2*time.Second), wsproxy.WithSendTimeout(2*time.Second))
		client, server := r.Tunnel(t)
		for range 10 {
			testkit.StaysFor(t, r, 45*time.Second)
			client.Send(t, "ping")
			server.Expect(t, "ping")
			server.Send(t, "pong")
			client.Expect(t, "pong")
		}
		require.NoError(t, client.Close())
	})
}
