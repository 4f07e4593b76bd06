package options_test

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestWithModifyResponseSeesEveryResponse(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, addr := testkit.ServeProxy(t, u.URL, wsproxy.WithModifyResponse(func(res *http.Response) error {
		res.Header.Set("X-Saw", fmt.Sprint(res.StatusCode, " ", res.Header.Get("X-Up"), " ", len(res.Header["Keep-Alive"])+len(res.Header["Connection"])))
		res.Header.Del("X-Up")
		return nil
	}))
	for _, test := range []struct {
		name, request, response string
		status                  int
		want                    http.Header
	}{
		{"a switch", testkit.UpgradeGet("/"), strings.TrimSuffix(testkit.SampleSwitch, "\r\n") + "X-Up: 1\r\nKeep-Alive: x\r\n\r\n", 101,
			http.Header{"Upgrade": {"websocket"}, "Connection": {"Upgrade"}, "Sec-Websocket-Accept": {testkit.SampleAccept}, "X-Saw": {"101 1 0"}}},
		{"a refusal", testkit.UpgradeGet("/"), "HTTP/1.1 403 Forbidden\r\nX-Up: 2\r\nKeep-Alive: x\r\nContent-Length: 2\r\nContent-Type: a/b\r\nDate: x\r\n\r\nno", 403,
			http.Header{"Content-Length": {"2"}, "Content-Type": {"a/b"}, "Date": {"x"}, "X-Saw": {"403 2 0"}}},
		{"a plain response", testkit.PlainGet("/"), "HTTP/1.1 200 OK\r\nX-Up: 3\r\nKeep-Alive: x\r\nContent-Length: 2\r\nContent-Type: a/b\r\nDate: x\r\n\r\nok", 200,
			http.Header{"Content-Length": {"2"}, "Content-Type": {"a/b"}, "Date": {"x"}, "X-Saw": {"200 3 0"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			client := testkit.Dial(t, addr)
			client.Send(t, test.request)
			server := u.Accept(t)
			server.RawHeader(t)
			server.Send(t, test.response)
			res := client.Response(t)
			assert.Equal(t, test.status, res.StatusCode)
			assert.Equal(t, test.want, res.Header)
			assert.Equal(t, test.status == 403, res.Close, "after a refused upgrade the client's connection is closed")
		})
	}
}

func TestAnErrorFromWithModifyResponseCauses502(t *testing.T) {
	broken := errors.New("broken")
	u := testkit.NewUpstream(t)
	errs := make(chan error, 1)
	_, addr := testkit.ServeProxy(t, u.URL, wsproxy.WithModifyResponse(func(*http.Response) error { return broken }),
		wsproxy.WithErrorHandler(func(w http.ResponseWriter, _ *http.Request, err error) {
			errs <- err
			w.WriteHeader(wsproxy.StatusCode(err))
		}))
	for _, test := range []struct{ name, request, response string }{
		{"a switch", testkit.UpgradeGet("/"), testkit.SampleSwitch},
		{"a refusal", testkit.UpgradeGet("/"), "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nX-Up: 1\r\n\r\nno"},
		{"a plain response", testkit.PlainGet("/"), testkit.ResponseOK},
	} {
		t.Run(test.name, func(t *testing.T) {
			client := testkit.Dial(t, addr)
			client.Send(t, test.request)
			server := u.Accept(t)
			server.RawHeader(t)
			server.Send(t, test.response)
			res := client.Response(t)
			assert.Equal(t, http.StatusBadGateway, res.StatusCode)
			assert.Empty(t, res.Header["X-Up"], "nothing of the response reaches the client")
			assert.Empty(t, res.Header["Sec-Websocket-Accept"], "nothing of the response reaches the client")
			err := <-errs
			assert.ErrorIs(t, err, broken)
			assert.ErrorIs(t, err, wsproxy.ErrUpstream)
			server.ExpectEOF(t, "")
		})
	}
}

func TestWithErrorHandlerRespondsToFailuresBeforeTheUpgrade(t *testing.T) {
	u := testkit.NewUpstream(t)
	down := "http://" + testkit.RefusingAddr(t)
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
		{"a bad key", u.URL, strings.Replace(testkit.UpgradeGet("/x"), testkit.SampleKey, "short", 1), 400, closing, wsproxy.ErrBadHandshake},
		{"a bad method", u.URL, strings.Replace(testkit.UpgradeGet("/x"), "GET", "PUT", 1), 405, http.Header{"Connection": {"close"}, "Allow": {"GET"}}, wsproxy.ErrBadHandshake},
		{"a bad version", u.URL, strings.Replace(testkit.UpgradeGet("/x"), "13", "8", 1), 426,
			http.Header{"Connection": {"close", "Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}}, wsproxy.ErrBadHandshake},
		{"a bad origin", u.URL, testkit.UpgradeGet("/x", "Origin: https://evil.example"), 403, closing, wsproxy.ErrForbiddenOrigin},
		{"an upstream that is down", down, testkit.UpgradeGet("/x"), 502, closing, wsproxy.ErrUpstream},
		{"an upstream that is down, for a plain request", down, testkit.PlainGet("/x"), 502, http.Header{}, wsproxy.ErrUpstream},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, addr := testkit.ServeProxy(t, test.target, handler, wsproxy.WithOrigins("https://good.example"))
			res, _ := testkit.Do(t, addr, test.request)
			got := <-calls
			assert.Equal(t, test.status, got.status)
			assert.Equal(t, test.header, got.header)
			assert.Equal(t, "/x", got.path, "the handler gets the client's request")
			assert.ErrorIs(t, got.err, test.kind)
			assert.Equal(t, http.StatusTeapot, res.StatusCode)
			assert.Equal(t, "1", res.Header.Get("X-Mine"))
			assert.Equal(t, "mine", testkit.Body(t, res))
		})
	}
	assert.Empty(t, u.Conns, "a refused upgrade does not reach the upstream")
}

func TestWithLoggerLogsFailuresWithoutSecrets(t *testing.T) {
	var all, warnings testkit.Buffer
	debug := wsproxy.WithLogger(slog.New(slog.NewTextHandler(&all, &slog.HandlerOptions{Level: slog.LevelDebug})))
	warn := wsproxy.WithLogger(slog.New(slog.NewTextHandler(&warnings, &slog.HandlerOptions{Level: slog.LevelWarn})))
	secrets := []string{"Cookie: secret-cookie", "Authorization: secret-auth"}
	down := "http://" + testkit.RefusingAddr(t)
	u := testkit.NewUpstream(t)
	for _, logger := range []wsproxy.Option{debug, warn} {
		_, addr := testkit.ServeProxy(t, down, logger)
		testkit.BothKinds(t, func(t *testing.T, request func(string, ...string) string, _ func(http.Header) http.Header) {
			testkit.Do(t, addr, request("/down?token=secret-query", secrets...))
		})
		e := testkit.NewEndings()
		_, addr = testkit.ServeProxy(t, u.URL, logger, e.Option())
		testkit.Do(t, addr, strings.Replace(testkit.UpgradeGet("/mistake?token=secret-query", secrets...), testkit.SampleKey, "short", 1))
		client := testkit.Dial(t, addr)
		client.Send(t, testkit.UpgradeGet("/tunnel?token=secret-query", secrets...))
		server := u.Accept(t)
		server.RawHeader(t)
		server.Send(t, testkit.SampleSwitch)
		client.Response(t)
		client.Close()
		server.Close()
		e.Next(t)
	}
	for _, line := range []string{
		`level=WARN msg="request failed" status=502`, `level=DEBUG msg="request failed" status=400`,
		`path=/down`, `path=/mistake`, `level=DEBUG msg="tunnel closed" tunnel=1 `,
	} {
		assert.Contains(t, all.String(), line)
	}
	assert.Equal(t, 1, strings.Count(warnings.String(), "\n"), "only an upstream that is down is a warning, once for both requests: %s", warnings.String())
	assert.Equal(t, 1, strings.Count(warnings.String(), `level=WARN msg="request failed" status=502`), "in %s", warnings.String())
	assert.NotContains(t, all.String()+warnings.String(), "secret")
}

// A second WithHooks silently replaced the first, so that metrics
// switched an access log off.
func TestWithHooksAddsAndAllAreCalledInOrder(t *testing.T) {
	u := testkit.NewUpstream(t)
	calls := make(chan string, 100)
	hooks := func(name string) wsproxy.Option {
		return wsproxy.WithHooks(wsproxy.Hooks{
			OnOpen: func(tunnel *wsproxy.Tunnel, r *http.Request) func(wsproxy.Ending) {
				calls <- fmt.Sprint(name, " open ", tunnel.ID(), " ", tunnel.Path(), " ", r.URL.RawQuery)
				return func(e wsproxy.Ending) {
					calls <- fmt.Sprint(name, " close ", tunnel.ID(), " ", e.Reason, " ", e.Err, " ", e.FromClient.Bytes, " ", e.FromUpstream.Bytes)
				}
			},
			OnRefuse: func(r *http.Request, status int, err error) {
				calls <- fmt.Sprint(name, " ", r.URL, " ", status, " ", err)
			},
		})
	}
	_, addr := testkit.ServeProxy(t, u.URL, hooks("a"), wsproxy.WithHooks(wsproxy.Hooks{}),
		testkit.OnOpen(func(*wsproxy.Tunnel, *http.Request) { calls <- "without onClose" }), hooks("b"))
	u.RawReceived(t, addr, testkit.UpgradeGet("/refused"))
	assert.Equal(t, "a /refused 200 <nil>", testkit.Within(t, calls, "OnRefuse"))
	assert.Equal(t, "b /refused 200 <nil>", testkit.Within(t, calls, "OnRefuse"))
	client := testkit.Dial(t, addr)
	client.Send(t, testkit.UpgradeGet("/chat?x=1"))
	server := u.Accept(t)
	server.RawHeader(t)
	server.Send(t, testkit.SampleSwitch)
	require.Equal(t, http.StatusSwitchingProtocols, client.Response(t).StatusCode)
	for _, want := range []string{"a open 1 /chat x=1", "without onClose", "b open 1 /chat x=1"} {
		assert.Equal(t, want, <-calls, "before the client is told")
	}
	client.Send(t, "hello")
	server.Expect(t, "hello")
	server.Send(t, "hi")
	client.Expect(t, "hi")
	require.NoError(t, client.CloseWrite())
	server.ExpectEOF(t, "")
	require.NoError(t, server.CloseWrite())
	client.ExpectEOF(t, "")
	for _, want := range []string{"a close 1 client closed <nil> 5 2", "b close 1 client closed <nil> 5 2"} {
		assert.Equal(t, want, testkit.Within(t, calls, "onClose"))
	}
	assert.Empty(t, calls)
}

func TestServeHTTPReturnsWhenTheTunnelEndsOrAtOnceIfDetached(t *testing.T) {
	u := testkit.NewUpstream(t)
	for _, test := range []struct {
		name     string
		opts     []wsproxy.Option
		detached bool
	}{
		{"by default", nil, false},
		{"WithDetached", []wsproxy.Option{wsproxy.WithDetached()}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := testkit.NewProxy(t, u.URL, test.opts...)
			returned := make(chan struct{})
			addr := testkit.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				defer close(returned)
				p.ServeHTTP(w, r)
			}))
			client, server := testkit.Tunnel(t, addr, u)
			if test.detached {
				<-returned
			}
			client.Send(t, "ping")
			server.Expect(t, "ping")
			server.Send(t, "pong")
			client.Expect(t, "pong")
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
			testkit.Eventually(t, func() bool { return p.Stats().Live == 0 }, "the tunnel stays open")
		})
	}
}
