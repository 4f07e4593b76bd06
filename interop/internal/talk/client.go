package talk

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"example.com/wsproxy/internal/testkit"
	"github.com/coder/websocket"
	"github.com/coder/websocket/wsjson"
)

// A client is the Go client in one conversation.
type client struct {
	*websocket.Conn
	ctx      context.Context
	url      string
	response *http.Response
}

// A conversation runs after the handshake if opts is not nil, and returns the
// expected Line.Result.
type conversation struct {
	path string
	opts *websocket.DialOptions
	hold func(*client) (any, error)
}

// Go runs all conversations as the Go client. url is ws://addr or wss://addr.
func Go(t testing.TB, url string, cfg *tls.Config) []Line {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: cfg}
	defer transport.CloseIdleConnections()
	var lines []Line
	for _, c := range conversations {
		line := Line{Path: c.path}
		result, err := c.run(t.Context(), url, transport)
		if err != nil {
			line.Error = err.Error()
		}
		line.Result, _ = json.Marshal(result)
		lines = append(lines, line)
	}
	return lines
}

func (c conversation) run(ctx context.Context, url string, transport *http.Transport) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*testkit.Patience)
	defer cancel()
	opts := *cmp.Or(c.opts, &websocket.DialOptions{})
	opts.HTTPClient = &http.Client{Transport: transport}
	conn, response, err := websocket.Dial(ctx, url+c.path, &opts)
	if response == nil {
		return nil, err
	}
	if conn != nil {
		defer conn.CloseNow()
		conn.SetReadLimit(-1)
	}
	return c.hold(&client{conn, ctx, url, response})
}

var deflate = &websocket.DialOptions{CompressionMode: websocket.CompressionContextTakeover}

var conversations = []conversation{
	{"/echo/text", nil, func(c *client) (any, error) {
		for _, s := range texts() {
			if err := c.echo(websocket.MessageText, []byte(s)); err != nil {
				return nil, err
			}
		}
		return map[string]any{"messages": len(texts())}, c.Close(1000, "done")
	}},
	{"/echo/binary", nil, func(c *client) (any, error) {
		sum := 0
		for _, n := range sizes {
			if err := c.echo(websocket.MessageBinary, noise(n)); err != nil {
				return nil, err
			}
			sum += n
		}
		return map[string]any{"bytes": sum}, c.Close(1000, "done")
	}},
	{"/echo/deflate", deflate, func(c *client) (any, error) {
		err := c.echo(websocket.MessageText, []byte(strings.Repeat("so it goes ", 100_000)))
		extension, _, _ := strings.Cut(c.response.Header.Get("Sec-WebSocket-Extensions"), ";")
		return map[string]any{"extension": extension}, errors.Join(err, c.Close(1000, "done"))
	}},
	{"/echo/subprotocol", &websocket.DialOptions{Subprotocols: []string{"chat.v1", "chat.v2"}}, func(c *client) (any, error) {
		return map[string]any{"protocol": c.Subprotocol()}, c.Close(1000, "done")
	}},
	{"/echo/fragments", nil, func(c *client) (any, error) {
		w, err := c.Writer(c.ctx, websocket.MessageText)
		if err != nil {
			return nil, err
		}
		for _, s := range []string{"one", "two", "three"} {
			io.WriteString(w, s)
		}
		if err := w.Close(); err != nil {
			return nil, err
		}
		_, message, err := c.Read(c.ctx)
		return text(message), errors.Join(err, c.Close(1000, "done"))
	}},
	{"/echo/ping", nil, func(c *client) (any, error) {
		c.CloseRead(c.ctx)
		err := c.Ping(c.ctx)
		return map[string]any{"pong": err == nil}, errors.Join(err, c.Close(1000, "done"))
	}},
	{"/ping", nil, func(c *client) (any, error) {
		_, message, err := c.Read(c.ctx)
		return text(message), errors.Join(err, c.Close(1000, "done"))
	}},
	{"/close", nil, func(c *client) (any, error) {
		_, _, err := c.Read(c.ctx)
		var closed websocket.CloseError
		if !errors.As(err, &closed) {
			return nil, err
		}
		return map[string]any{"code": int(closed.Code), "reason": closed.Reason}, nil
	}},
	{"/echo/close", nil, func(c *client) (any, error) { return map[string]any{}, c.Close(4002, "my turn") }},
	{"/drop", nil, func(c *client) (any, error) {
		_, _, err := c.Read(c.ctx)
		if err == nil || websocket.CloseStatus(err) != -1 {
			return nil, fmt.Errorf("a server that is gone has said %v", err)
		}
		return map[string]any{"code": 1006}, nil
	}},
	{"/echo/abort", nil, func(c *client) (any, error) { return map[string]any{}, c.CloseNow() }},
	{"/headers", nil, func(c *client) (any, error) {
		said := map[string]any{}
		err := wsjson.Read(c.ctx, c.Conn, &said)
		said["host"] = strings.HasSuffix(c.url, fmt.Sprint("//", said["host"]))
		return said, errors.Join(err, c.Close(1000, "done"))
	}},
	{"/refuse", nil, func(c *client) (any, error) {
		return map[string]any{"status": c.response.StatusCode, "challenge": c.response.Header.Get("WWW-Authenticate")}, nil
	}},
}

// echo sends a message and checks its echo.
func (c *client) echo(kind websocket.MessageType, message []byte) error {
	sent := make(chan error, 1)
	go func() { sent <- c.Write(c.ctx, kind, message) }()
	k, got, err := c.Read(c.ctx)
	switch {
	case err != nil:
		return errors.Join(err, <-sent)
	case k != kind || !bytes.Equal(got, message):
		return fmt.Errorf("of %d bytes in a %v came back %d in a %v", len(message), kind, len(got), k)
	}
	return <-sent
}

// sizes are the sizes of binary messages: the edges of the three forms of a
// frame's length, and large ones.
var sizes = []int{0, 125, 126, 65535, 65536, 1 << 20, 16 << 20}

// texts returns the text messages of a conversation.
func texts() []string {
	all := []string{"", "hello", "grüße 🎉", strings.Repeat("ö", 50_000)}
	for i := range 300 {
		all = append(all, fmt.Sprint("message ", i))
	}
	return all
}

func noise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{}).Read(b)
	return b
}

func text(message []byte) any { return map[string]any{"text": string(message)} }
