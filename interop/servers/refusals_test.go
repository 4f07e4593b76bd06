package servers_test

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
)

// noConnections returns the URL of a server that must get no connection.
func noConnections(t *testing.T) string {
	return "http://" + testkit.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		assert.Fail(t, "the upstream was asked", "%s %s", r.Method, r.URL)
	}))
}

// upgrade returns a WebSocket handshake.
func upgrade(t *testing.T, url string) *http.Request {
	t.Helper()
	r, err := http.NewRequest("GET", url, nil)
	require.NoError(t, err)
	for name, value := range map[string]string{"Connection": "Upgrade", "Upgrade": "websocket",
		"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="} {
		r.Header.Set(name, value)
	}
	return r
}

func TestAWriterThatHidesItsConnectionIsNamedInAClearError(t *testing.T) {
	timeout := func(h http.Handler) http.Handler { return http.TimeoutHandler(h, testkit.Patience, "too late") }
	for _, c := range []struct {
		name string
		wrap func(v *watcher, log io.Writer) http.Handler
		want string // the type that hides the connection
	}{
		{"http.TimeoutHandler", func(v *watcher, _ io.Writer) http.Handler { return timeout(v.p) }, "*http.timeoutWriter"},
		{"a logger that embeds and no more", func(v *watcher, _ io.Writer) http.Handler {
			return replaceWriter(v.p, func(w http.ResponseWriter) http.ResponseWriter { return hider{w} })
		}, "servers_test.hider"},
		{"http.TimeoutHandler round otelhttp", func(v *watcher, _ io.Writer) http.Handler {
			return timeout(otelhttp.NewHandler(v.p, "ws"))
		}, "*http.timeoutWriter"},
		{"http.TimeoutHandler round a logger that unwraps", func(v *watcher, _ io.Writer) http.Handler {
			return timeout(replaceWriter(v.p, func(w http.ResponseWriter) http.ResponseWriter { return unwrapper{hider{w}, w} }))
		}, "*http.timeoutWriter"},
		{"http.TimeoutHandler within gin", func(v *watcher, log io.Writer) http.Handler {
			engine := gins(v, log)
			engine.Any("/ws/*rest", gin.WrapH(timeout(v.p)))
			return engine
		}, "*http.timeoutWriter"},
		{"http.TimeoutHandler within echo", func(v *watcher, log io.Writer) http.Handler {
			return echoes(v, log, timeout(v.p))
		}, "*http.timeoutWriter"},
	} {
		t.Run(c.name, func(t *testing.T) {
			upstream := noConnections(t)
			ask := func(t *testing.T, opts ...wsproxy.Option) (*http.Response, string) {
				p := testkit.NewProxy(t, upstream, opts...)
				v := &watcher{p, make(chan visit, 10)}
				f := serve(t, c.wrap(v, io.Discard), nil)
				res, err := f.Client().Do(upgrade(t, f.URL+"/ws/"))
				require.NoError(t, err)
				text, err := io.ReadAll(res.Body)
				require.NoError(t, err)
				assert.Zero(t, testkit.Counted(p))
				assert.Empty(t, f.log.String())
				return res, string(text)
			}

			var log lockedBuffer
			res, text := ask(t, wsproxy.WithLogger(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))))
			assert.Equal(t, 500, res.StatusCode)
			for where, got := range map[string]string{"the response": text, "the log": log.String()} {
				for _, part := range []string{c.want, "http.Hijacker", "Unwrap"} {
					assert.Contains(t, got, part, where)
				}
			}

			errs := make(chan error, 1)
			ask(t, wsproxy.WithErrorHandler(func(w http.ResponseWriter, r *http.Request, err error) {
				errs <- err
				w.WriteHeader(wsproxy.StatusCode(err))
			}))
			err := <-errs
			assert.ErrorIs(t, err, http.ErrNotSupported)
			assert.Equal(t, 500, wsproxy.StatusCode(err))
			assert.ErrorContains(t, err, c.want)
		})
	}
}

func TestPlainRequestsWorkThroughAWriterThatHidesItsConnection(t *testing.T) {
	upstream := newUpstream(t)
	for name, wrap := range map[string]func(http.Handler) http.Handler{
		"http.TimeoutHandler": func(h http.Handler) http.Handler { return http.TimeoutHandler(h, testkit.Patience, "too late") },
		"an embedding logger": func(h http.Handler) http.Handler {
			return replaceWriter(h, func(w http.ResponseWriter) http.ResponseWriter { return hider{w} })
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := serve(t, wrap(testkit.NewProxy(t, upstream)), nil)
			res, err := f.Client().Post(f.URL+"/x", "text/plain", strings.NewReader("hello"))
			require.NoError(t, err)
			got, err := io.ReadAll(res.Body)
			require.NoError(t, err)
			assert.Equal(t, "hello", string(got))
			assert.Equal(t, 200, res.StatusCode)
		})
	}
}

// These writers have a Hijack method that fails. Gin's panics.
func TestAHijackerThatFailsLeavesNothingBehind(t *testing.T) {
	var open atomic.Int32
	upstream := "http://" + testkit.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		open.Add(1)
		defer open.Add(-1)
		echoMessages(w, r)
	}))
	for name, wrap := range map[string]func(v *watcher, log io.Writer) http.Handler{
		"echo": func(v *watcher, log io.Writer) http.Handler { return echoes(v, log, v.p) },
		"chi": func(v *watcher, log io.Writer) http.Handler {
			r := chis(v, log)
			r.Handle("/ws/*", v.p)
			return r
		},
		"gin": func(v *watcher, log io.Writer) http.Handler {
			engine := gins(v, log)
			engine.Any("/ws/*rest", gin.WrapH(v.p))
			return engine
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := testkit.NewProxy(t, upstream)
			v := &watcher{p, make(chan visit, 10)}
			f := serve(t, http.TimeoutHandler(wrap(v, io.Discard), testkit.Patience, "too late"), nil)
			res, err := f.Client().Do(upgrade(t, f.URL+"/ws/"))
			require.NoError(t, err)
			io.Copy(io.Discard, res.Body)
			if assert.NotEqual(t, 101, res.StatusCode); name != "gin" { // gin's writer sends 200 after a Hijack
				assert.Equal(t, 500, res.StatusCode)
			}
			assert.Zero(t, testkit.Counted(p))
			testkit.Eventually(t, func() bool { return open.Load() == 0 }, "the upstream's connection stays open")
		})
	}
}

func TestABodyOverMaxBytesHandlersLimitCauses413(t *testing.T) {
	p := testkit.NewProxy(t, newUpstream(t))
	f := serve(t, http.MaxBytesHandler(p, 1000), nil)
	for size, status := range map[int]int{1000: 200, 1001: 413} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			res, err := f.Client().Post(f.URL, "text/plain", io.MultiReader(strings.NewReader(strings.Repeat("x", size)))) // in chunks
			require.NoError(t, err)
			io.Copy(io.Discard, res.Body)
			assert.Equal(t, status, res.StatusCode)
		})
	}
}

// A handler may be called without a server.
func TestARecorderCannotBeUpgradedAndIsNamed(t *testing.T) {
	w := httptest.NewRecorder()
	testkit.NewProxy(t, noConnections(t)).ServeHTTP(w, upgrade(t, "http://server.example.com/"))
	assert.Equal(t, 500, w.Code)
	assert.Contains(t, w.Body.String(), "*httptest.ResponseRecorder")
}
