package handshake_test

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
)

// A lentWriter is a ResponseWriter of middleware that takes it back, for its next
// request, when the handler has returned.
type lentWriter struct {
	http.ResponseWriter
	back, late *atomic.Bool
}

func (w lentWriter) SetWriteDeadline(at time.Time) error {
	err := http.NewResponseController(w.ResponseWriter).SetWriteDeadline(at)
	if !at.IsZero() && at.Before(time.Now()) {
		time.Sleep(time.Second) // the goroutine loses the processor
		if w.back.Load() {
			w.late.Store(true)
		}
	}
	return err
}

func (w lentWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Close, or a client that leaves, ended a 1xx that the client does not take from
// another goroutine, which could still use the ResponseWriter when ServeHTTP had
// returned. Middleware that reuses its ResponseWriters then set the deadline of
// another request, or crashed the process.
func TestAnInformationalResponseLeavesTheResponseWriterAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := new(http.Server)
		r := testkit.NewMemRig(t, server)
		var back, late atomic.Bool
		server.Handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			defer back.Store(true)
			r.Proxy.ServeHTTP(lentWriter{w, &back, &late}, req)
		})
		r.SendHandshake(t)
		upstream := <-r.Upstreams
		upstream.Request(t)
		hint := []byte("HTTP/1.1 103 Early Hints\r\nLink: " + strings.Repeat("a", 9000) + "\r\n\r\n")
		go func() {
			for {
				if _, err := upstream.Write(hint); err != nil {
					return
				}
			}
		}()
		time.Sleep(10 * time.Second) // the client's side is full
		r.Proxy.Close()
		time.Sleep(10 * time.Second)
		assert.True(t, back.Load(), "the handler has not returned")
		assert.False(t, late.Load(), "the ResponseWriter is used after the handler")
		upstream.Close()
	})
}
