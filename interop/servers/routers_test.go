package servers_test

import (
	"bufio"
	"compress/gzip"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/coder/websocket"
	"github.com/gin-gonic/gin"
	"github.com/go-chi/chi/v5"
	chimiddleware "github.com/go-chi/chi/v5/middleware"
	"github.com/labstack/echo/v4"
	echomiddleware "github.com/labstack/echo/v4/middleware"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
)

// A visit is what middleware sees when its handler has returned.
type visit struct {
	live   int // open tunnels at that time
	header http.Header
}

// A watcher collects visits of tunnels.
type watcher struct {
	p      *wsproxy.Proxy
	visits chan visit
}

func (v *watcher) leave(r *http.Request, w http.ResponseWriter) {
	if r.Header.Get("Upgrade") == "websocket" {
		v.visits <- visit{v.p.Stats().Live, w.Header().Clone()}
	}
}

// middleware returns net/http middleware that records visits.
func (v *watcher) middleware(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer v.leave(r, w)
		h.ServeHTTP(w, r)
	})
}

// A setting is one way to serve the proxy at /ws/.
type setting struct {
	name  string
	strip bool // the upstream does not see the prefix
	noisy bool // its middleware writes to hijacked connections
	wrap  func(v *watcher, log io.Writer) http.Handler
}

// gins returns a gin engine with its usual middleware.
func gins(v *watcher, log io.Writer) *gin.Engine {
	gin.SetMode(gin.ReleaseMode)
	engine := gin.New()
	engine.Use(gin.LoggerWithWriter(log), gin.RecoveryWithWriter(log), func(c *gin.Context) {
		defer v.leave(c.Request, c.Writer)
		c.Next()
	})
	return engine
}

// echoes returns an Echo router with its usual middleware.
func echoes(v *watcher, log io.Writer, h http.Handler) http.Handler {
	e := echo.New()
	e.Logger.SetOutput(log)
	e.Use(echomiddleware.RequestLoggerWithConfig(echomiddleware.RequestLoggerConfig{
		LogStatus: true, LogResponseSize: true, LogLatency: true,
		LogValuesFunc: func(_ echo.Context, values echomiddleware.RequestLoggerValues) error {
			_, err := fmt.Fprintln(log, values.Status, values.ResponseSize, values.Latency)
			return err
		},
	}), echomiddleware.Recover(),
		echomiddleware.RequestID(), echomiddleware.Gzip(), func(next echo.HandlerFunc) echo.HandlerFunc {
			return func(c echo.Context) error {
				defer v.leave(c.Request(), c.Response())
				return next(c)
			}
		})
	e.Any("/ws/*", echo.WrapHandler(h))
	return e
}

// chis returns a chi router with its usual middleware.
func chis(v *watcher, out io.Writer) *chi.Mux {
	r := chi.NewRouter()
	r.Use(chimiddleware.RequestID, chimiddleware.RequestLogger(&chimiddleware.DefaultLogFormatter{Logger: log.New(out, "", 0)}),
		chimiddleware.Recoverer, chimiddleware.Compress(5), chimiddleware.Timeout(testkit.Patience), v.middleware)
	return r
}

var settings = []setting{
	{name: "net/http mux with wildcards", wrap: func(v *watcher, _ io.Writer) http.Handler {
		mux := http.NewServeMux()
		mux.Handle("/ws/{room}/{rest...}", v.middleware(v.p))
		return mux
	}},
	{name: "net/http StripPrefix", strip: true, wrap: func(v *watcher, _ io.Writer) http.Handler {
		mux := http.NewServeMux()
		mux.Handle("/ws/", http.StripPrefix("/ws", v.middleware(v.p)))
		return mux
	}},
	{name: "http.MaxBytesHandler", wrap: func(v *watcher, _ io.Writer) http.Handler {
		return http.MaxBytesHandler(v.middleware(v.p), 1<<10)
	}},
	{name: "chi Handle", wrap: func(v *watcher, log io.Writer) http.Handler {
		r := chis(v, log)
		r.Route("/ws", func(r chi.Router) { r.Handle("/*", v.p) })
		return r
	}},
	{name: "chi Mount", strip: true, wrap: func(v *watcher, log io.Writer) http.Handler {
		r := chis(v, log)
		r.Mount("/ws", http.StripPrefix("/ws", v.p))
		return r
	}},
	{name: "gin WrapH", wrap: func(v *watcher, log io.Writer) http.Handler {
		engine := gins(v, log)
		engine.Any("/ws/*rest", gin.WrapH(v.p))
		return engine
	}},
	{name: "gin Writer", wrap: func(v *watcher, log io.Writer) http.Handler {
		engine := gins(v, log)
		engine.Any("/ws/*rest", func(c *gin.Context) { v.p.ServeHTTP(c.Writer, c.Request) })
		return engine
	}},
	{name: "gin with compression of everything", noisy: true, wrap: func(v *watcher, log io.Writer) http.Handler {
		engine := gins(v, log)
		engine.Any("/ws/*rest", func(c *gin.Context) {
			if strings.Contains(c.GetHeader("Accept-Encoding"), "gzip") || c.GetHeader("Upgrade") != "" {
				c.Header("Content-Encoding", "gzip")
				zipped := gzip.NewWriter(c.Writer)
				defer zipped.Close()
				c.Writer = &ginZipper{c.Writer, zipped}
			}
			c.Next()
		}, gin.WrapH(v.p))
		return engine
	}},
	{name: "echo WrapHandler", wrap: func(v *watcher, log io.Writer) http.Handler { return echoes(v, log, v.p) }},
	{name: "echo StripPrefix", strip: true, wrap: func(v *watcher, log io.Writer) http.Handler {
		return echoes(v, log, http.StripPrefix("/ws", v.p))
	}},
	{name: "otelhttp", wrap: func(v *watcher, _ io.Writer) http.Handler {
		return v.middleware(otelhttp.NewHandler(v.p, "ws"))
	}},
	{name: "a logger that unwraps", wrap: func(v *watcher, _ io.Writer) http.Handler {
		return v.middleware(replaceWriter(v.p, func(w http.ResponseWriter) http.ResponseWriter { return unwrapper{hider{w}, w} }))
	}},
	{name: "a logger that hijacks", wrap: func(v *watcher, _ io.Writer) http.Handler {
		return v.middleware(replaceWriter(v.p, func(w http.ResponseWriter) http.ResponseWriter { return hijacker{hider{w}, w} }))
	}},
	{name: "a logger that wraps the connection", wrap: func(v *watcher, _ io.Writer) http.Handler {
		return v.middleware(replaceWriter(v.p, func(w http.ResponseWriter) http.ResponseWriter { return connWrapper{hider{w}, w} }))
	}},
	{name: "all of them in a row", strip: true, wrap: func(v *watcher, log io.Writer) http.Handler {
		r := chis(v, log)
		engine := gin.New()
		engine.Any("/ws/*rest", gin.WrapH(http.StripPrefix("/ws", http.MaxBytesHandler(v.p, 1<<10))))
		r.Mount("/", engine)
		return otelhttp.NewHandler(replaceWriter(r, func(w http.ResponseWriter) http.ResponseWriter { return hijacker{hider{w}, w} }), "ws")
	}},
}

// A ginZipper compresses as gin middleware usually does, but without the
// exception for upgrades.
type ginZipper struct {
	gin.ResponseWriter
	zipped *gzip.Writer
}

func (z *ginZipper) Write(b []byte) (int, error) { return z.zipped.Write(b) }
func (z *ginZipper) WriteHeader(status int) {
	z.Header().Del("Content-Length")
	z.ResponseWriter.WriteHeader(status)
}

// A hider is a ResponseWriter without further methods.
type hider struct{ http.ResponseWriter }

type unwrapper struct {
	hider
	w http.ResponseWriter
}

func (u unwrapper) Unwrap() http.ResponseWriter { return u.w }

type hijacker struct {
	hider
	w http.ResponseWriter
}

func (h hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) { return h.w.(http.Hijacker).Hijack() }
func (h hijacker) Flush()                                       { h.w.(http.Flusher).Flush() }

type connWrapper struct {
	hider
	w http.ResponseWriter
}

func (c connWrapper) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, brw, err := c.w.(http.Hijacker).Hijack()
	return struct{ net.Conn }{conn}, brw, err
}

func replaceWriter(h http.Handler, replace func(http.ResponseWriter) http.ResponseWriter) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(replace(w), r) })
}

func TestEveryKindOfRequestWorksBehindEveryRouter(t *testing.T) {
	upstream := newUpstream(t)
	for _, s := range settings {
		for _, mode := range modes {
			t.Run(s.name+"/"+mode.name, func(t *testing.T) {
				p := testkit.NewProxy(t, upstream, append(mode.opts, wsproxy.WithUpgrades("websocket", "tcp"))...)
				v := &watcher{p, make(chan visit, 10)}
				var accessLog lockedBuffer
				f := serve(t, s.wrap(v, &accessLog), nil)
				const target = "/room%2Fone/%20x/y?q=a%2Fb;c=%zz&"
				seen := target + " for 127.0.0.1, 127.0.0.1"
				if !s.strip {
					seen = "/ws" + seen
				}

				res, err := f.Client().Post(f.URL+"/ws"+target, "text/plain", strings.NewReader("hello"))
				require.NoError(t, err)
				got, err := io.ReadAll(res.Body)
				require.NoError(t, err)
				assert.Equal(t, "hello", string(got), "a plain request's body")
				assert.Equal(t, "POST "+seen, res.Header.Get(gotField))

				conn, header := dialWebSocket(t, "ws://"+f.addr+"/ws"+target, nil)
				assert.Equal(t, "GET "+seen, header.Get(gotField))
				if mode.detached {
					assertVisit(t, <-v.visits, 1)
				}
				talk(t, conn)
				assert.Empty(t, v.visits, "middleware that returned while the tunnel is open")
				require.NoError(t, conn.Close(websocket.StatusNormalClosure, "done"))
				if !mode.detached {
					assertVisit(t, <-v.visits, 0)
				}
				testkit.Eventually(t, func() bool { return p.Stats().Live == 0 }, "the tunnel stays")

				client := dial(t, "tcp", f.addr, tcpRequest("/ws"+target)+"early, ", nil)
				assert.Equal(t, "GET "+seen, client.switched(t).Get(gotField))
				assert.Equal(t, "11 bytes: early, late", client.finish(t, "late"), "what comes after a half-close")

				if !s.noisy {
					assert.Empty(t, f.log.String(), "what http.Server complains of")
				}
			})
		}
	}
}

func assertVisit(t *testing.T, v visit, live int) {
	t.Helper()
	assert.Equal(t, live, v.live, "live tunnels as deferred code of middleware runs")
	assert.NotEmpty(t, v.header["Sec-Websocket-Accept"], "the header of the 101 as middleware sees it: %v", v.header)
	assert.NotEmpty(t, v.header[http.CanonicalHeaderKey(gotField)], "the header of the 101 as middleware sees it: %v", v.header)
}
