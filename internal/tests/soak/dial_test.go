package soak_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/require"
)

// dial gives the client's end a connection. It returns the bytes to send first, a
// function that reads the response, and one to call at the end.
func (tun *soakTunnel) dial() (first string, respond func() error, release func(), err error) {
	client, path := tun.ends[soakClient], fmt.Sprintf("/%d", tun.id)
	if tun.kind.HTTP2 == nil {
		conn, err := net.DialTimeout("tcp", tun.kind.Addr, soakPatience)
		if err != nil {
			return "", nil, nil, err
		}
		if tun.kind.TLS != nil {
			conn = tls.Client(conn, tun.kind.TLS)
		}
		client.Peer = testkit.NewPeer(conn)
		return strings.Replace(testkit.SampleRequest, "/chat", path, 1), func() error {
			res, err := http.ReadResponse(client.Reader, nil)
			return refusal(res, err, http.StatusSwitchingProtocols)
		}, func() {}, nil
	}
	r, stream, err := tun.kind.HTTP2.NewRequest(path)
	if err != nil {
		return "", nil, nil, err
	}
	client.Peer = testkit.NewPeer(stream)
	late := time.AfterFunc(soakPatience, func() {
		tun.late.Store(true)
		stream.Reset()
	})
	return "", func() (err error) {
			stream.Response, err = tun.kind.HTTP2.RoundTrip(r)
			return refusal(stream.Response, err, http.StatusOK)
		}, func() {
			late.Stop()
			stream.Reset()
		}, nil
}

func refusal(res *http.Response, err error, want int) error {
	if err != nil || res.StatusCode == want {
		return err
	}
	text, _ := io.ReadAll(res.Body)
	return fmt.Errorf("%s %q", res.Status, text)
}

// connect makes the connection of HTTP/2 that all clients of the kind share.
func (k *soakKind) connect(t *testing.T) {
	t.Helper()
	res := k.HTTP2.Connect(t, "/", func(r *http.Request) { delete(r.Header, "Sec-Websocket-Version") }).Response
	require.Equal(t, http.StatusUpgradeRequired, res.StatusCode)
}

// resetUnread reports whether the client has reset a stream that the proxy did not
// read at that time, as the upstream did not read. The end of the request's
// context tells the proxy then.
func (tun *soakTunnel) resetUnread(ending wsproxy.Ending) bool {
	return tun.kind.HTTP2 != nil && tun.way.resets && tun.by == soakClient && ending.Reason == wsproxy.ReasonContextDone
}
