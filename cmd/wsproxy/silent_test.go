package main

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"testing"
	"time"

	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/require"
)

// net/http waits five seconds for connections without a request
// (golang/go#22682), such as those that browsers open in advance. SIGTERM took
// 5.4 s.
func TestSilentConnectionsDoNotDelayTheEnd(t *testing.T) {
	t.Parallel()
	for name, hello := range map[string]func(net.Conn) error{
		"http":                            func(net.Conn) error { return nil },
		"https, before the TLS handshake": func(net.Conn) error { return nil },
		"https, during the TLS handshake": func(conn net.Conn) error {
			_, err := io.WriteString(conn, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc") // of 517 bytes
			return err
		},
		"https, after the TLS handshake": func(conn net.Conn) error {
			return tls.Client(conn, &tls.Config{InsecureSkipVerify: true}).Handshake()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := []string{"-drain", "1h"}
			if name != "http" {
				certFile, keyFile, _ := certificate(t)
				args = append(args, "-tls-cert", certFile, "-tls-key", keyFile)
			}
			c := start(t, args...)
			var silent []net.Conn
			for range 50 {
				conn, err := net.Dial("tcp", c.addr)
				require.NoError(t, err)
				defer conn.Close()
				require.NoError(t, hello(conn))
				silent = append(silent, conn)
			}
			c.get(t, "/", "") // the others have been accepted
			begin := time.Now()
			c.signals <- syscall.SIGTERM
			for _, conn := range silent {
				conn.SetDeadline(begin.Add(testkit.Patience))
				_, err := io.Copy(io.Discard, conn)
				require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "the connection stays open")
			}
			require.Zero(t, c.exit(t), c.stderr)
			require.Less(t, time.Since(begin), 4500*time.Millisecond, "it waited for net/http's five seconds")
		})
	}
}

// onItsWay sends the first half of a request's header, has the command drain, and
// sends the other half. It returns the response.
func onItsWay(t *testing.T, c *command, fields string) (*peer, *http.Response) {
	t.Helper()
	begin := time.Now()
	client := c.dial(t)
	_, err := io.WriteString(client, "GET / HTTP/1.1\r\nHost: "+c.addr+"\r\n")
	require.NoError(t, err)
	c.get(t, "/..", "") // a 400; the connection before has been accepted
	c.signals <- syscall.SIGTERM
	c.stderr.Await(t, "draining")
	_, err = io.WriteString(client, fields+"\r\n")
	require.NoError(t, err)
	if time.Since(begin) >= young/2 {
		t.Skip("this machine is too slow now: the drain may not wait any more")
	}
	res, err := http.ReadResponse(client.Reader, nil)
	require.NoError(t, err)
	return client, res
}

// net/http drops a request whose header is complete only after Shutdown has begun.
func TestTheDrainServesARequestThatIsOnItsWay(t *testing.T) {
	t.Parallel()
	c := start(t, "-drain", "1h")
	client, res := onItsWay(t, c, "")
	require.Equal(t, http.StatusOK, res.StatusCode)
	client.Close()
	require.Zero(t, c.exit(t), c.stderr)
}

// It got a 503, or nothing at all. Its client may then give up for good, whereas
// after a Close frame with 1001 it connects again.
func TestTheDrainOpensATunnelThatIsOnItsWay(t *testing.T) {
	t.Parallel()
	url, conns := switches(t)
	c := start(t, "-drain", "1h", url)
	client, res := onItsWay(t, c, upgradeFields)
	require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
	server := &peer{testkit.NewPeer(<-conns)}
	client.wantClose(t, goodbye)
	server.wantClose(t, goodbye)
	client.Close()
	server.Close()
	require.Zero(t, c.exit(t), c.stderr)
}

// An upgrade that waits for its upstream is not a silent connection.
func TestTheDrainWaitsForAnUpgradeWhoseUpstreamIsSlow(t *testing.T) {
	t.Parallel()
	asked, answer := make(chan bool, 1), make(chan bool)
	c := start(t, "-drain", "1h", serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked <- true
		select {
		case <-answer:
		case <-r.Context().Done():
		}
		http.Error(w, "", http.StatusTeapot)
	}))
	client, silent := c.dial(t), c.dial(t)
	_, err := io.WriteString(client, "GET / HTTP/1.1\r\nHost: a\r\n"+upgradeFields+"\r\n")
	require.NoError(t, err)
	<-asked
	c.signals <- syscall.SIGTERM
	silent.ended(t) // now net/http's Shutdown has begun
	close(answer)
	res, err := http.ReadResponse(client.Reader, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusTeapot, res.StatusCode)
	client.Close()
	require.Zero(t, c.exit(t), c.stderr)
}
