package wsproxy_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"example.com/wsproxy"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestWithModifyResponseSeesEveryAnswer(t *testing.T) {
	u := newUpstream(t)
	_, addr := serveProxy(t, u.url, wsproxy.WithModifyResponse(func(res *http.Response) error {
		res.Header.Set("X-Saw", fmt.Sprint(res.StatusCode, " ", res.Header.Get("X-Up"), " ", len(res.Header["Keep-Alive"])+len(res.Header["Connection"])))
		res.Header.Del("X-Up")
		return nil
	}))
	for _, test := range []struct {
		name, request, answer string
		status                int
		want                  http.Header
	}{
		{"a switch", upgradeGet("/"), strings.TrimSuffix(sampleSwitch, "\r\n") + "X-Up: 1\r\nKeep-Alive: x\r\n\r\n", 101,
			http.Header{"Upgrade": {"websocket"}, "Connection": {"Upgrade"}, "Sec-Websocket-Accept": {sampleAccept}, "X-Saw": {"101 1 0"}}},
		{"a refusal", upgradeGet("/"), "HTTP/1.1 403 Forbidden\r\nX-Up: 2\r\nKeep-Alive: x\r\nContent-Length: 2\r\nContent-Type: a/b\r\nDate: x\r\n\r\nno", 403,
			http.Header{"Content-Length": {"2"}, "Content-Type": {"a/b"}, "Date": {"x"}, "X-Saw": {"403 2 0"}}},
		{"a plain answer", plainGet("/"), "HTTP/1.1 200 OK\r\nX-Up: 3\r\nKeep-Alive: x\r\nContent-Length: 2\r\nContent-Type: a/b\r\nDate: x\r\n\r\nok", 200,
			http.Header{"Content-Length": {"2"}, "Content-Type": {"a/b"}, "Date": {"x"}, "X-Saw": {"200 3 0"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			client := dial(t, addr)
			client.send(t, test.request)
			server := u.accept(t)
			server.rawHeader(t)
			server.send(t, test.answer)
			res := client.answer(t)
			assert.Equal(t, test.status, res.StatusCode)
			assert.Equal(t, test.want, res.Header)
			assert.Equal(t, test.status == 403, res.Close, "after a refused upgrade the client's connection is closed")
		})
	}
}

func TestAFailingWithModifyResponseIsABadGateway(t *testing.T) {
	broken := errors.New("broken")
	u := newUpstream(t)
	errs := make(chan error, 1)
	_, addr := serveProxy(t, u.url, wsproxy.WithModifyResponse(func(*http.Response) error { return broken }),
		wsproxy.WithErrorHandler(func(w http.ResponseWriter, _ *http.Request, err error) {
			errs <- err
			w.WriteHeader(wsproxy.StatusCode(err))
		}))
	for _, test := range []struct{ name, request, answer string }{
		{"a switch", upgradeGet("/"), sampleSwitch},
		{"a refusal", upgradeGet("/"), "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nX-Up: 1\r\n\r\nno"},
		{"a plain answer", plainGet("/"), answerOK},
	} {
		t.Run(test.name, func(t *testing.T) {
			client := dial(t, addr)
			client.send(t, test.request)
			server := u.accept(t)
			server.rawHeader(t)
			server.send(t, test.answer)
			res := client.answer(t)
			assert.Equal(t, http.StatusBadGateway, res.StatusCode)
			assert.Empty(t, res.Header["X-Up"], "nothing of the answer reaches the client")
			assert.Empty(t, res.Header["Sec-Websocket-Accept"], "nothing of the answer reaches the client")
			err := <-errs
			assert.ErrorIs(t, err, broken)
			assert.ErrorIs(t, err, wsproxy.ErrUpstream)
			server.expectEOF(t, "")
		})
	}
}

// serveTLS runs h over TLS, for "127.0.0.1" and "example.com", and returns its
// host:port and a configuration that trusts it.
func serveTLS(t testing.TB, h http.Handler, change func(*tls.Config)) (string, *tls.Config) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	s.TLS = &tls.Config{}
	change(s.TLS)
	s.StartTLS()
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return s.Listener.Addr().String(), &tls.Config{RootCAs: roots}
}

func TestWithTLSConfigVerifiesTheTargetsName(t *testing.T) {
	hellos := make(chan *tls.ClientHelloInfo, 100)
	upstream, trusting := serveTLS(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s over TLS: %v, forwarded as %s", r.Proto, r.TLS != nil, r.Header.Get("X-Forwarded-Proto"))
	}), func(cfg *tls.Config) {
		cfg.NextProtos = []string{"h2", "http/1.1"}
		cfg.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			hellos <- hello
			return nil, nil
		}
	})
	port := upstream[strings.LastIndex(upstream, ":"):]
	with := func(change func(*tls.Config)) wsproxy.Option {
		cfg := trusting.Clone()
		change(cfg)
		return wsproxy.WithTLSConfig(cfg)
	}
	for _, test := range []struct {
		name, target string
		opts         []wsproxy.Option
		status       int
		sni          string
	}{
		{"a custom CA", "https://127.0.0.1" + port, []wsproxy.Option{wsproxy.WithTLSConfig(trusting)}, 200, ""},
		{"ALPN of the caller's is replaced", "wss://127.0.0.1" + port, []wsproxy.Option{with(func(c *tls.Config) { c.NextProtos = []string{"h2"} })}, 200, ""},
		{"another name to verify", "wss://localhost" + port, []wsproxy.Option{with(func(c *tls.Config) { c.ServerName = "example.com" })}, 200, "example.com"},
		{"the wrong name", "wss://localhost" + port, []wsproxy.Option{wsproxy.WithTLSConfig(trusting)}, 502, "localhost"},
		{"the wrong name asked for", "wss://127.0.0.1" + port, []wsproxy.Option{with(func(c *tls.Config) { c.ServerName = "other.example" })}, 502, "other.example"},
		{"an unknown CA", "wss://127.0.0.1" + port, nil, 502, ""},
		{"no verification", "wss://localhost" + port, []wsproxy.Option{wsproxy.WithTLSConfig(&tls.Config{InsecureSkipVerify: true})}, 200, "localhost"},
		{"WithHost is not the name verified", "wss://127.0.0.1" + port, []wsproxy.Option{wsproxy.WithTLSConfig(trusting), wsproxy.WithHost("other.example")}, 200, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, addr := serveProxy(t, test.target, test.opts...)
			bothKinds(t, func(t *testing.T, request func(string, ...string) string, _ func(http.Header) http.Header) {
				res, _ := ask(t, addr, request("/"))
				assert.Equal(t, test.status, res.StatusCode)
				if text := body(t, res); test.status == 200 {
					assert.Equal(t, "HTTP/1.1 over TLS: true, forwarded as http", text)
				}
				hello := <-hellos
				assert.Equal(t, []string{"http/1.1"}, hello.SupportedProtos, "an upgrade needs HTTP/1.1")
				assert.Equal(t, test.sni, hello.ServerName)
			})
		})
	}
	assert.Empty(t, trusting.NextProtos, "the caller's configuration is cloned")
}

func TestATunnelOverTLSPassesBytesAndTheirEnd(t *testing.T) {
	upstream, trusting := serveTLS(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, brw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		io.WriteString(conn, sampleSwitch)
		io.Copy(conn, brw)
	}), func(*tls.Config) {})
	_, addr := serveProxy(t, "wss://"+upstream, wsproxy.WithTLSConfig(trusting))
	res, client := ask(t, addr, upgradeGet("/"))
	require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
	client.send(t, "echo")
	client.expect(t, "echo")
	require.NoError(t, client.CloseWrite())
	client.expectEOF(t, "")
}

func TestWithErrorHandlerAnswersWhatFailedBeforeTheUpgrade(t *testing.T) {
	u := newUpstream(t)
	down := "http://" + refusing(t)
	type call struct {
		status int
		header http.Header
		path   string
		err    error
	}
	calls := make(chan call, 1)
	handler := wsproxy.WithErrorHandler(func(w http.ResponseWriter, r *http.Request, err error) {
		calls <- call{wsproxy.StatusCode(err), w.Header().Clone(), r.URL.Path, err}
		w.Header().Set("X-Mine", "1")
		w.WriteHeader(http.StatusTeapot)
		io.WriteString(w, "mine")
	})
	closing := http.Header{"Connection": {"close"}}
	for _, test := range []struct {
		name, target, request string
		status                int
		header                http.Header
		kind                  error
	}{
		{"a bad key", u.url, strings.Replace(upgradeGet("/x"), sampleKey, "short", 1), 400, closing, wsproxy.ErrBadHandshake},
		{"a bad method", u.url, strings.Replace(upgradeGet("/x"), "GET", "PUT", 1), 405, http.Header{"Connection": {"close"}, "Allow": {"GET"}}, wsproxy.ErrBadHandshake},
		{"a bad version", u.url, strings.Replace(upgradeGet("/x"), "13", "8", 1), 426,
			http.Header{"Connection": {"close", "Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}}, wsproxy.ErrBadHandshake},
		{"a bad origin", u.url, upgradeGet("/x", "Origin: https://evil.example"), 403, closing, wsproxy.ErrForbiddenOrigin},
		{"an upstream that is down", down, upgradeGet("/x"), 502, closing, wsproxy.ErrUpstream},
		{"an upstream that is down, for a plain request", down, plainGet("/x"), 502, http.Header{}, wsproxy.ErrUpstream},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, addr := serveProxy(t, test.target, handler, wsproxy.WithOrigins("https://good.example"))
			res, _ := ask(t, addr, test.request)
			got := <-calls
			assert.Equal(t, test.status, got.status)
			assert.Equal(t, test.header, got.header)
			assert.Equal(t, "/x", got.path, "the handler gets the client's request")
			assert.ErrorIs(t, got.err, test.kind)
			assert.Equal(t, http.StatusTeapot, res.StatusCode)
			assert.Equal(t, "1", res.Header.Get("X-Mine"))
			assert.Equal(t, "mine", body(t, res))
		})
	}
	assert.Empty(t, u.conns, "a refused upgrade does not reach the upstream")
}

// A logBuffer may be written and read at once.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestWithLoggerGetsFailuresAndNoSecrets(t *testing.T) {
	var all, warnings logBuffer
	debug := wsproxy.WithLogger(slog.New(slog.NewTextHandler(&all, &slog.HandlerOptions{Level: slog.LevelDebug})))
	warn := wsproxy.WithLogger(slog.New(slog.NewTextHandler(&warnings, &slog.HandlerOptions{Level: slog.LevelWarn})))
	secrets := []string{"Cookie: secret-cookie", "Authorization: secret-auth"}
	down := "http://" + refusing(t)
	u := newUpstream(t)
	for _, logger := range []wsproxy.Option{debug, warn} {
		_, addr := serveProxy(t, down, logger)
		bothKinds(t, func(t *testing.T, request func(string, ...string) string, _ func(http.Header) http.Header) {
			ask(t, addr, request("/down?token=secret-query", secrets...))
		})
		e := newEndings()
		_, addr = serveProxy(t, u.url, logger, e.hook())
		ask(t, addr, strings.Replace(upgradeGet("/mistake?token=secret-query", secrets...), sampleKey, "short", 1))
		client := dial(t, addr)
		client.send(t, upgradeGet("/tunnel?token=secret-query", secrets...))
		server := u.accept(t)
		server.rawHeader(t)
		server.send(t, sampleSwitch)
		client.answer(t)
		client.Close()
		server.Close()
		e.next(t)
	}
	for _, line := range []string{
		`level=WARN msg="request failed" status=502`, `level=DEBUG msg="request failed" status=400`,
		`path=/down`, `path=/mistake`, `level=DEBUG msg="tunnel closed" tunnel=1 `,
	} {
		assert.Contains(t, all.String(), line)
	}
	assert.Equal(t, 2, strings.Count(warnings.String(), "\n"), "an upstream that is down is all there is to warn of: %s", warnings.String())
	assert.Equal(t, 2, strings.Count(warnings.String(), `level=WARN msg="request failed" status=502`), "in %s", warnings.String())
	assert.NotContains(t, all.String()+warnings.String(), "secret")
}

func TestWithHooksAreCalledOnceAsATunnelOpensAndCloses(t *testing.T) {
	u := newUpstream(t)
	calls := make(chan string, 100)
	_, addr := serveProxy(t, u.url,
		wsproxy.WithHooks(wsproxy.Hooks{OnOpen: func(*wsproxy.Tunnel, *http.Request) { calls <- "the hooks given first" }}),
		wsproxy.WithHooks(wsproxy.Hooks{
			OnOpen: func(tunnel *wsproxy.Tunnel, r *http.Request) {
				calls <- fmt.Sprint("open ", tunnel.ID(), " ", tunnel.Path(), " ", tunnel.ClientIP(), " ", tunnel.Server() == u.addr, " ", r.URL.RawQuery)
			},
			OnClose: func(tunnel *wsproxy.Tunnel, e wsproxy.Ending) {
				calls <- fmt.Sprint("close ", tunnel.ID(), " ", e.Reason, " ", e.Err, " ", e.FromClient.Bytes, " ", e.FromUpstream.Bytes)
			},
		}))
	u.received(t, addr, upgradeGet("/refused")) // no tunnel, no call
	client := dial(t, addr)
	client.send(t, upgradeGet("/chat?x=1"))
	server := u.accept(t)
	server.rawHeader(t)
	server.send(t, sampleSwitch)
	require.Equal(t, http.StatusSwitchingProtocols, client.answer(t).StatusCode)
	assert.Equal(t, "open 1 /chat 127.0.0.1 true x=1", <-calls, "before the client is told")
	client.send(t, "hello")
	server.expect(t, "hello")
	server.send(t, "hi")
	client.expect(t, "hi")
	require.NoError(t, client.CloseWrite())
	server.expectEOF(t, "")
	require.NoError(t, server.CloseWrite())
	client.expectEOF(t, "")
	assert.Equal(t, "close 1 client closed <nil> 5 2", <-calls)
	assert.Empty(t, calls)
}

func TestServeHTTPReturnsWithTheTunnelOrAtOnceWhereDetached(t *testing.T) {
	u := newUpstream(t)
	for _, test := range []struct {
		name     string
		opts     []wsproxy.Option
		detached bool
	}{
		{"by default", nil, false},
		{"WithDetached", []wsproxy.Option{wsproxy.WithDetached()}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := newProxy(t, u.url, test.opts...)
			returned := make(chan struct{})
			addr := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				defer close(returned)
				p.ServeHTTP(w, r)
			}))
			client, server := tunnel(t, addr, u)
			if test.detached {
				<-returned
			}
			client.send(t, "ping")
			server.expect(t, "ping")
			server.send(t, "pong")
			client.expect(t, "pong")
			if !test.detached {
				select {
				case <-returned:
					t.Error("ServeHTTP returned while the tunnel was open")
				default:
				}
			}
			client.Close()
			server.Close()
			<-returned
			eventually(t, func() bool { return p.Stats().Live == 0 }, "the tunnel stays open")
		})
	}
}
