package servers_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/coder/websocket"
	"github.com/go-chi/chi/v5"
	chimiddleware "github.com/go-chi/chi/v5/middleware"
	"github.com/labstack/echo/v4"
	echomiddleware "github.com/labstack/echo/v4/middleware"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// pass waits for d. A limit that must not apply leaves no event to wait for.
func pass(d time.Duration) { time.Sleep(d) }

func TestATunnelOutlivesTheServersTimeouts(t *testing.T) {
	const short = 300 * time.Millisecond
	upstream := newUpstream(t)
	for _, mode := range modes {
		for _, secure := range []bool{false, true} {
			name := mode.name
			if secure {
				name += " over TLS"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				p := testkit.NewProxy(t, upstream, mode.opts...)
				f := serve(t, p, func(s *httptest.Server) {
					s.Config.ReadTimeout, s.Config.ReadHeaderTimeout = short, short
					s.Config.WriteTimeout, s.Config.IdleTimeout = short, short
					if secure {
						s.TLS = nil
						s.EnableHTTP2 = true // gives ALPN a choice
					}
				})
				conn, _ := dialWebSocket(t, f.URL, f.http1())
				pass(short + short/2)
				talk(t, conn)
				pass(short + short/2)
				talk(t, conn)
				assert.NoError(t, conn.Close(websocket.StatusNormalClosure, ""))
			})
		}
	}
}

// Middleware that bounds the request's context bounds the tunnel. A detached
// tunnel is not bound to the context.
func TestATimeoutOfMiddlewareEndsOnlyBlockingTunnels(t *testing.T) {
	const short = 200 * time.Millisecond
	upstream := newUpstream(t)
	for name, wrap := range map[string]func(http.Handler) http.Handler{
		"chi Timeout": func(h http.Handler) http.Handler {
			r := chi.NewRouter()
			r.Use(chimiddleware.Timeout(short))
			r.Handle("/*", h)
			return r
		},
		"echo ContextTimeout": func(h http.Handler) http.Handler {
			e := echo.New()
			e.Use(echomiddleware.ContextTimeout(short))
			e.Any("/*", echo.WrapHandler(h))
			return e
		},
	} {
		for _, mode := range modes {
			t.Run(name+"/"+mode.name, func(t *testing.T) {
				t.Parallel()
				ended := make(chan wsproxy.Ending, 1)
				p := testkit.NewProxy(t, upstream, append(mode.opts,
					testkit.OnClose(func(_ *wsproxy.Tunnel, e wsproxy.Ending) { ended <- e }))...)
				f := serve(t, wrap(p), nil)
				conn, _ := dialWebSocket(t, f.URL, nil)
				if mode.detached {
					pass(2 * short)
					talk(t, conn)
					assert.NoError(t, conn.Close(websocket.StatusNormalClosure, ""))
					assert.Equal(t, wsproxy.ReasonClientClosed, (<-ended).Reason)
					return
				}
				ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
				defer cancel()
				_, _, err := conn.Read(ctx)
				assert.Error(t, err)
				assert.NoError(t, ctx.Err(), "the tunnel outlives its context")
				ending := <-ended
				assert.Equal(t, wsproxy.ReasonContextDone, ending.Reason)
				assert.ErrorIs(t, ending.Err, context.DeadlineExceeded)
			})
		}
	}
}

// spans is a tracer provider that counts spans.
type spans struct {
	noop.TracerProvider
	started, ended atomic.Int32
}

type tracer struct {
	noop.Tracer
	s *spans
}

type span struct {
	noop.Span
	s *spans
}

func (s *spans) Tracer(string, ...trace.TracerOption) trace.Tracer { return tracer{s: s} }

func (t tracer) Start(ctx context.Context, _ string, _ ...trace.SpanStartOption) (context.Context, trace.Span) {
	t.s.started.Add(1)
	return ctx, span{s: t.s}
}

func (s span) End(...trace.SpanEndOption) { s.s.ended.Add(1) }

func TestASpanLastsAsLongAsABlockingTunnel(t *testing.T) {
	upstream := newUpstream(t)
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			s := new(spans)
			p := testkit.NewProxy(t, upstream, mode.opts...)
			f := serve(t, otelhttp.NewHandler(p, "ws", otelhttp.WithTracerProvider(s)), nil)
			conn, _ := dialWebSocket(t, f.URL, nil)
			talk(t, conn)
			if mode.detached {
				testkit.Eventually(t, func() bool { return s.ended.Load() == 1 }, "the span of a detached tunnel stays open")
			}
			assert.Equal(t, int32(1), s.started.Load())
			if !mode.detached {
				assert.Zero(t, s.ended.Load(), "spans that ended while the tunnel is open")
			}
			require.NoError(t, conn.Close(websocket.StatusNormalClosure, ""))
			testkit.Eventually(t, func() bool { return s.ended.Load() == 1 }, "the span stays open")
			testkit.Eventually(t, func() bool { return p.Stats().Live == 0 }, "the tunnel stays")
		})
	}
}

// After the handler has hijacked the connection, writes by middleware fail and
// reach neither end.
func TestMiddlewareThatWritesLateDoesNotAffectATunnel(t *testing.T) {
	p := testkit.NewProxy(t, newUpstream(t), wsproxy.WithDetached())
	wrote := make(chan error, 1)
	f := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.ServeHTTP(w, r)
		w.Header().Set("X-Late", "1")
		w.WriteHeader(http.StatusTeapot)
		_, err := io.WriteString(w, "late")
		wrote <- err
	}), nil)
	conn, _ := dialWebSocket(t, f.URL, nil)
	select {
	case err := <-wrote:
		assert.ErrorIs(t, err, http.ErrHijacked)
	case <-time.After(testkit.Patience):
		require.Fail(t, "the middleware has not written")
	}
	talk(t, conn)
	assert.NoError(t, conn.Close(websocket.StatusNormalClosure, ""))
	assert.Equal(t, 2, strings.Count(f.log.String(), "hijacked connection"), "http.Server's complaints: %s", f.log.String())
}
