package testkit

import (
	"bytes"
	"net/http"
	"strings"
	"sync"
	"testing"

	"example.com/wsproxy"
)

// OnOpen makes a Proxy call f as a tunnel opens.
func OnOpen(f func(t *wsproxy.Tunnel, r *http.Request)) wsproxy.Option {
	return wsproxy.WithHooks(wsproxy.Hooks{OnOpen: func(t *wsproxy.Tunnel, r *http.Request) func(wsproxy.Ending) {
		f(t, r)
		return nil
	}})
}

// OnClose makes a Proxy call f when a tunnel has ended.
func OnClose(f func(t *wsproxy.Tunnel, e wsproxy.Ending)) wsproxy.Option {
	return wsproxy.WithHooks(wsproxy.Hooks{OnOpen: func(t *wsproxy.Tunnel, _ *http.Request) func(wsproxy.Ending) {
		return func(e wsproxy.Ending) { f(t, e) }
	}})
}

// Endings collects how tunnels end.
type Endings chan wsproxy.Ending

// NewEndings returns an empty collection.
func NewEndings() Endings { return make(Endings, 10_000) }

// Option makes a Proxy report its endings to e.
func (e Endings) Option() wsproxy.Option {
	return OnClose(func(_ *wsproxy.Tunnel, ending wsproxy.Ending) { e <- ending })
}

// Next returns the next ending.
func (e Endings) Next(t testing.TB) wsproxy.Ending {
	t.Helper()
	return Within(t, e, "the end of a tunnel")
}

// Counts are the counts of a Proxy that a test may compare.
type Counts struct {
	Handshakes, Live         int
	Opened                   int64
	FromClient, FromUpstream wsproxy.FlowStats
}

// Counted returns the counts of p.
func Counted(p *wsproxy.Proxy) Counts {
	s := p.Stats()
	return Counts{s.Handshakes, s.Live, s.Opened, s.FromClient, s.FromUpstream}
}

// A Failure is one call of an error handler.
type Failure struct {
	Request *http.Request
	Err     error
}

// Failures collects the calls of an error handler.
type Failures chan Failure

// NewFailures returns an empty collection.
func NewFailures() Failures { return make(Failures, 100) }

// Option makes a Proxy report failures to f and respond with the status alone.
func (f Failures) Option() wsproxy.Option {
	return wsproxy.WithErrorHandler(func(w http.ResponseWriter, r *http.Request, err error) {
		f <- Failure{r, err}
		w.WriteHeader(wsproxy.StatusCode(err))
	})
}

// Next returns the next failure.
func (f Failures) Next(t testing.TB) Failure {
	t.Helper()
	return Within(t, f, "a call of the error handler")
}

// A Buffer holds what was written to it. It is safe for concurrent use.
type Buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// String returns what was written so far.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// Await waits until s was written.
func (b *Buffer) Await(t testing.TB, s string) {
	t.Helper()
	Eventually(t, func() bool { return strings.Contains(b.String(), s) }, "%q was not written", s)
}
