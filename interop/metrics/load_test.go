package metrics_test

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/wsproxy/internal/testkit"
	"github.com/coder/websocket"
	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
	"github.com/stretchr/testify/assert"
)

// A load opens tunnels, talks and ends them in several ways. It counts what it
// sends, receives and causes, for comparison with the proxy's counts.
type load struct {
	url string

	opened, byClient, byUpstream, forbidden, unauthorized atomic.Int64
	bytes, messages                                       [2]atomic.Int64 // from the client, from the upstream

	stop atomic.Bool
	all  sync.WaitGroup
}

// start runs clients, each of which opens one tunnel after the other, until end is
// called. Pauses of up to pause bound the connections in TIME_WAIT.
func (l *load) start(t *testing.T, clients int, pause time.Duration) {
	for i := range clients {
		random := rand.New(rand.NewPCG(1, uint64(i)))
		l.all.Go(func() {
			for !l.stop.Load() {
				if err := l.one(random, pause); err != nil {
					assert.NoError(t, err)
					return
				}
				time.Sleep(rand.N(pause))
			}
		})
	}
	t.Cleanup(l.end) // of a test that has failed
}

// end waits until the clients have ended their last tunnels.
func (l *load) end() {
	l.stop.Store(true)
	l.all.Wait()
}

// one makes one request: an upgrade that is refused, or a tunnel.
func (l *load) one(random *rand.Rand, pause time.Duration) error {
	switch random.IntN(8) {
	case 0:
		return l.refused(http.Header{"Origin": {"https://evil.example"}}, http.StatusForbidden, &l.forbidden)
	case 1:
		return l.refused(http.Header{"Authorization": {"none"}}, http.StatusUnauthorized, &l.unauthorized)
	}
	c, err := l.open()
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	for range 1 + random.IntN(20) {
		if err := c.echo(random.IntN(2000)); err != nil {
			return err
		}
	}
	time.Sleep(rand.N(pause)) // so that scrapes see open tunnels
	switch random.IntN(3) {
	case 0:
		return c.reset()
	case 1:
		return c.askToClose()
	default:
		return c.close()
	}
}

func (l *load) refused(header http.Header, want int, count *atomic.Int64) error {
	d := ws.Dialer{Header: ws.HandshakeHeaderHTTP(header), Timeout: patience}
	_, _, _, err := d.Dial(context.Background(), l.url)
	var status ws.StatusError
	if !errors.As(err, &status) || int(status) != want {
		return errors.Join(errors.New("the upgrade is not refused"), err)
	}
	count.Add(1)
	return nil
}

// A client is one end of a tunnel. Conn counts the bytes after the handshake.
type client struct {
	countedConn
	l *load
}

func (l *load) open() (*client, error) {
	d := ws.Dialer{Timeout: patience}
	conn, _, _, err := d.Dial(context.Background(), l.url)
	if err != nil {
		return nil, err
	}
	l.opened.Add(1)
	return &client{countedConn{conn, &l.bytes}, l}, nil
}

type countedConn struct {
	net.Conn
	bytes *[2]atomic.Int64
}

func (c countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.bytes[1].Add(int64(n))
	return n, err
}

func (c countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.bytes[0].Add(int64(n))
	return n, err
}

// echo sends a message and waits until it comes back.
func (c *client) echo(size int) error {
	if err := wsutil.WriteClientBinary(c, make([]byte, size)); err != nil {
		return err
	}
	c.l.messages[0].Add(1)
	b, err := wsutil.ReadServerBinary(c)
	if err == nil && len(b) != size {
		err = io.ErrUnexpectedEOF
	}
	c.l.messages[1].Add(1)
	return err
}

// reset ends the tunnel abruptly.
func (c *client) reset() error {
	c.l.byClient.Add(1)
	return c.Conn.(*net.TCPConn).SetLinger(0)
}

// askToClose makes the upstream close the tunnel.
func (c *client) askToClose() error {
	if err := wsutil.WriteClientText(c, []byte("close")); err != nil {
		return err
	}
	c.l.messages[0].Add(1)
	c.l.byUpstream.Add(1)
	return c.untilClosed(c.sendClose)
}

// close closes the tunnel.
func (c *client) close() error {
	c.l.byClient.Add(1)
	if err := c.sendClose(); err != nil {
		return err
	}
	return c.untilClosed(func() error { return nil })
}

func (c *client) sendClose() error {
	return ws.WriteFrame(c, ws.MaskFrameInPlace(ws.NewCloseFrame(ws.NewCloseFrameBody(1000, "bye"))))
}

// untilClosed reads a Close frame, calls then, and reads the end.
func (c *client) untilClosed(then func() error) error {
	header, err := ws.ReadHeader(c)
	if err != nil || header.OpCode != ws.OpClose {
		return errors.Join(errors.New("no Close frame"), err)
	}
	if _, err := io.CopyN(io.Discard, c, header.Length); err != nil {
		return err
	}
	if err := then(); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, c)
	return err
}

// newServer returns the host:port of an upstream that echoes binary messages,
// closes after a text message, and refuses requests with the field Authorization.
func newServer(t *testing.T) (addr string) {
	return testkit.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer conn.CloseNow()
		for {
			kind, message, err := conn.Read(context.Background())
			switch {
			case err != nil:
				return
			case kind == websocket.MessageText:
				conn.Close(websocket.StatusNormalClosure, strings.ToUpper(string(message)))
				return
			}
			if conn.Write(context.Background(), kind, message) != nil {
				return
			}
		}
	}))
}
