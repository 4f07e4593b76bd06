package plain_test

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
)

// An unwrapper is what most middleware makes of a ResponseWriter.
type unwrapper struct{ http.ResponseWriter }

func (u unwrapper) Unwrap() http.ResponseWriter { return u.ResponseWriter }

// net/http writes the header of a response to HEAD after the handler. Behind
// middleware that wraps the ResponseWriter nothing bounded that: a client that
// pipelines HEADs and does not read was held for ever.
func TestAHEADResponseThatTheClientDoesNotTakeIsCutAtTheSendTimeout(t *testing.T) {
	for name, wrap := range map[string]func(http.ResponseWriter) http.ResponseWriter{
		"":           func(w http.ResponseWriter) http.ResponseWriter { return w },
		"middleware": func(w http.ResponseWriter) http.ResponseWriter { return unwrapper{w} },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				closed := make(chan time.Time, 1)
				server := &http.Server{ConnState: func(_ net.Conn, state http.ConnState) {
					if state == http.StateClosed {
						closed <- time.Now()
					}
				}}
				r := testkit.NewMemRig(t, server, wsproxy.WithSendTimeout(5*time.Second))
				server.Handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { r.Proxy.ServeHTTP(wrap(w), req) })
				r.Send(t, strings.Repeat("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", 40))
				start := time.Now()
				go func() {
					for server := range r.Upstreams {
						server.Request(t)
						io.WriteString(server, "HTTP/1.1 200 OK\r\nX: "+strings.Repeat("x", 9000)+"\r\n\r\n")
						server.Close()
					}
				}()
				select {
				case at := <-closed:
					assert.Equal(t, 5*time.Second, at.Sub(start))
				case <-time.After(time.Hour):
					t.Error("the client's connection is held")
				}
				close(r.Upstreams)
			})
		})
	}
}
