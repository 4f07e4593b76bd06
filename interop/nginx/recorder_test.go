package nginx_test

import (
	"crypto/sha1"
	"encoding/base64"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/require"
)

// A fate says what a recorder does with a connection after a response.
type fate int

const (
	closes fate = iota
	keeps
	gives // puts it into tunnels
)

// A reply responds to one request.
type reply func(c *peer, m message) fate

// A recorder is an upstream that notes every request and replies as the trial
// says.
type recorder struct {
	addr    string
	tunnels chan *peer // connections with the fate gives

	mu       sync.Mutex
	reply    reply
	onHead   func() // called after each header, if not nil
	requests []message
	accepted int
	live     map[net.Conn]bool
}

func newRecorder(t testing.TB) *recorder {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r := &recorder{addr: l.Addr().String(), live: map[net.Conn]bool{}, tunnels: make(chan *peer, 64)}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { r.serve(conn) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		r.drop()
		running.Wait()
	})
	return r
}

// begin drops earlier notes and sets the reply to further requests.
func (r *recorder) begin(reply reply) {
	r.drop()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reply, r.onHead, r.requests, r.accepted = reply, nil, nil, 0
	for len(r.tunnels) > 0 {
		<-r.tunnels
	}
}

// drop closes every connection.
func (r *recorder) drop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for conn := range r.live {
		conn.Close()
	}
	clear(r.live)
}

func (r *recorder) recorded() []message {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.requests)
}

func (r *recorder) serve(conn net.Conn) {
	conn.SetDeadline(time.Now().Add(2 * testkit.Patience))
	c := newPeer(conn, conn)
	r.mu.Lock()
	r.live[conn] = true
	r.mu.Unlock()
	number := 0
	then := keeps
	for then == keeps {
		m, err := c.readHead()
		if err == nil {
			r.headCame()
		}
		if err == nil && m.has("expect", "100-continue") {
			io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
		}
		if err == nil {
			err = c.readBody(&m, false)
		}
		if err != nil {
			break
		}
		r.mu.Lock()
		if number == 0 {
			r.accepted++
			number = r.accepted
		}
		m.conn = number
		r.requests = append(r.requests, m)
		reply := r.reply
		r.mu.Unlock()
		then = reply(c, m)
	}
	if then == gives {
		select {
		case r.tunnels <- c:
			return
		default: // the buffer is full
		}
	}
	conn.Close()
	r.mu.Lock()
	delete(r.live, conn)
	r.mu.Unlock()
}

// whenHeadComes makes f the function to call for the header of every further
// request.
func (r *recorder) whenHeadComes(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.onHead = f
}

func (r *recorder) headCame() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.onHead != nil {
		r.onHead()
	}
}

// respondWith returns the reply with a fixed text, in which {accept} is the
// accept key. It closes the connection if the request or the text says so.
func respondWith(text string) reply {
	return func(c *peer, m message) fate {
		io.WriteString(c, strings.ReplaceAll(text, "{accept}", acceptKey(m)))
		head, _, _ := strings.Cut(strings.ToLower(text), "\r\n\r\n")
		switch {
		case strings.Contains(text, "HTTP/1.1 101"):
			return gives
		case m.has("connection", "close"), strings.HasSuffix(m.start, "HTTP/1.0"),
			strings.Contains(head, "connection: close"),
			!strings.Contains(head, "content-length") && !strings.Contains(head, "chunked"):
			return closes
		}
		return keeps
	}
}

func acceptKey(m message) string {
	key := strings.Join(m.all("sec-websocket-key"), "")
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}
