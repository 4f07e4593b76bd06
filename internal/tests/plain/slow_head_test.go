package plain_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
)

// An unwrapper is what most middleware makes of a ResponseWriter.
type unwrapper struct{ http.ResponseWriter }

func (u unwrapper) Unwrap() http.ResponseWriter { return u.ResponseWriter }

// net/http writes the header of a response to HEAD after the handler. Behind
// middleware that wraps the ResponseWriter nothing bounded that: a client that
// pipelines HEADs and does not read was held for ever.
func TestAHEADResponseThatTheClientDoesNotTakeIsCutAtTheSendTimeout(t *testing.T) {
	t.Parallel()
	for name, wrap := range map[string]func(http.ResponseWriter) http.ResponseWriter{
		"":           func(w http.ResponseWriter) http.ResponseWriter { return w },
		"middleware": func(w http.ResponseWriter) http.ResponseWriter { return unwrapper{w} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			closed := make(chan struct{}, 1)
			server := &http.Server{ConnState: func(_ net.Conn, state http.ConnState) {
				if state == http.StateClosed {
					closed <- struct{}{}
				}
			}}
			// Not in fake time: httputil flushes on a goroutine of its own, for which
			// the handler waits with a mutex, and a bubble's clock then stands still.
			r := testkit.NewMemRig(t, server, wsproxy.WithSendTimeout(100*time.Millisecond))
			server.Handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { r.Proxy.ServeHTTP(wrap(w), req) })
			r.Send(t, strings.Repeat("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", 40))
			done := make(chan struct{})
			go func() {
				defer close(done)
				for server := range r.Upstreams {
					http.ReadRequest(bufio.NewReader(server))
					io.WriteString(server, "HTTP/1.1 200 OK\r\nX: "+strings.Repeat("x", 9000)+"\r\n\r\n")
					server.Close()
				}
			}()
			select {
			case <-closed:
			case <-time.After(testkit.Patience):
				t.Error("the client's connection is held")
			}
			server.Close()
			close(r.Upstreams)
			<-done
		})
	}
}
