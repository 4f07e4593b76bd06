package plain_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"testing"

	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
)

// If the client resets its stream, the HTTP/2 server of net/http encodes the
// header of a 1xx after WriteHeader has returned, while httputil clears that
// header (golang/go#67940). The race detector saw it within a second; without it
// "concurrent map iteration and map write" ends the process.
func TestAClientThatCancelsDuringAnInformationalResponseIsNoRace(t *testing.T) {
	hint := "HTTP/1.1 103 Early Hints\r\nLink: " + strings.Repeat("a", 32<<10) + "\r\n\r\n"
	u := testkit.NewUpstream(t)
	u.Script(func(server *testkit.Peer) {
		if _, err := http.ReadRequest(server.Reader); err == nil {
			io.WriteString(server, strings.Repeat(hint, 10))
			io.Copy(io.Discard, server)
		}
	})
	addr := serveHTTP2(t, testkit.NewProxy(t, u.URL))
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	h2 := &http.Transport{Protocols: &protocols}
	t.Cleanup(h2.CloseIdleConnections)
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			for range 8 {
				ctx, cancel := context.WithCancel(context.Background())
				ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got1xxResponse: func(int, textproto.MIMEHeader) error {
					cancel()
					return nil
				}})
				req, err := http.NewRequestWithContext(ctx, "GET", "http://"+addr, nil)
				if assert.NoError(t, err) {
					_, err = h2.RoundTrip(req)
					assert.ErrorIs(t, err, context.Canceled)
				}
			}
		})
	}
	clients.Wait()
}

// A copyingWriter notes whether the HTTP/2 server of net/http would copy the
// header of each 1xx before it encodes it: with one of two fields it does.
type copyingWriter struct {
	http.ResponseWriter
	copies chan bool
}

func (w copyingWriter) WriteHeader(status int) {
	if status < 200 {
		_, length := w.Header()["Content-Length"]
		_, encoding := w.Header()["Transfer-Encoding"]
		w.copies <- length || encoding
	}
	w.ResponseWriter.WriteHeader(status)
}

// The cause of the test above, for runs without the race detector.
func TestTheHeaderOfAnInformationalResponseIsCopied(t *testing.T) {
	u := testkit.NewUpstream(t)
	u.Script(func(server *testkit.Peer) {
		server.RawHeader(t)
		io.WriteString(server, strings.Repeat("HTTP/1.1 103 Early Hints\r\nX-Hint: 1\r\n\r\n", 2)+testkit.ResponseOK)
	})
	p := testkit.NewProxy(t, u.URL)
	copies := make(chan bool, 10)
	client := testkit.Dial(t, testkit.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.ServeHTTP(copyingWriter{w, copies}, r)
	})))
	client.Send(t, testkit.PlainRequest)
	for range 2 {
		client.Expect(t, "HTTP/1.1 103 Early Hints\r\nX-Hint: 1\r\n\r\n")
		assert.True(t, <-copies)
	}
	res := client.Response(t)
	assert.Equal(t, "ok", testkit.Body(t, res))
	assert.Empty(t, res.TransferEncoding)
}
