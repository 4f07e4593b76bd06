package testkit

import (
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Close discards what comes. Before, it did so while a Read was waiting too, and
// that Read returned bytes of the middle of the stream. TestSoak took them for a
// fault of the proxy.
func TestAReadOfAClosedStreamReturnsNoLaterBytes(t *testing.T) {
	body := &stepBody{entered: make(chan struct{}, 10), chunks: make(chan string)}
	_, up := io.Pipe()
	s := &Stream{Response: &http.Response{Body: body}, up: up}
	type result struct {
		n   int
		err error
	}
	read := make(chan result, 1)
	go func() {
		n, err := s.Read(make([]byte, 10))
		read <- result{n, err}
	}()
	Within(t, body.entered, "a read of the body")
	require.NoError(t, s.Close())

	for range 3 { // the first ends the Read
		body.chunks <- "later"
	}
	close(body.chunks)
	assert.Equal(t, result{0, net.ErrClosed}, Within(t, read, "the end of the Read"))
	_, err := s.Read(make([]byte, 10))
	assert.Equal(t, net.ErrClosed, err)
	assert.False(t, body.shared.Load(), "two read the body at once")
}

// A stepBody returns one chunk in each Read.
type stepBody struct {
	entered chan struct{}
	chunks  chan string
	readers atomic.Int32
	shared  atomic.Bool
}

func (b *stepBody) Read(p []byte) (int, error) {
	if b.readers.Add(1) > 1 {
		b.shared.Store(true)
	}
	defer b.readers.Add(-1)
	b.entered <- struct{}{}
	chunk, more := <-b.chunks
	if !more {
		return 0, io.EOF
	}
	return copy(p, chunk), nil
}

func (b *stepBody) Close() error { return nil }
