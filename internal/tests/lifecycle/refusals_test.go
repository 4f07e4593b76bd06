package lifecycle_test

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A refusal is one call of OnRefuse.
type refusal struct {
	path   string
	status int
	err    error
}

func onRefuse(refusals chan refusal) wsproxy.Option {
	return wsproxy.WithHooks(wsproxy.Hooks{OnRefuse: func(r *http.Request, status int, err error) {
		refusals <- refusal{r.URL.Path, status, err}
	}})
}

// The error handler saw the proxy's own refusals alone: those of the upstream
// were in no metric.
func TestEachRefusalIsToldAndCountedOnce(t *testing.T) {
	reset := func(w http.ResponseWriter, _ *http.Request, _ error) {
		conn, _, err := http.NewResponseController(w).Hijack() // nginx's return 444
		if err == nil {
			conn.Close()
		}
	}
	upgrade := testkit.UpgradeGet("/x")
	for name, test := range map[string]struct {
		request  string
		response string // "": the upstream refuses connections
		opts     []wsproxy.Option
		status   int
		err      error
	}{
		"a bad key":              {strings.Replace(upgrade, testkit.SampleKey, "short", 1), testkit.ResponseOK, nil, 400, wsproxy.ErrBadHandshake},
		"another site":           {testkit.UpgradeGet("/x", "Origin: https://evil.example"), testkit.ResponseOK, []wsproxy.Option{wsproxy.WithOrigins("https://a.example")}, 403, wsproxy.ErrForbiddenOrigin},
		"no server":              {upgrade, "", nil, 502, wsproxy.ErrUpstream},
		"the upstream's 401":     {upgrade, "HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno", nil, 401, nil},
		"the upstream's 200":     {upgrade, testkit.ResponseOK, nil, 200, nil},
		"an upstream that cuts":  {upgrade, "HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\nno", nil, 403, nil},
		"a wrong 101":            {upgrade, strings.Replace(testkit.SampleSwitch, testkit.SampleAccept, "no", 1), nil, 502, wsproxy.ErrUpstream},
		"an error handler's own": {upgrade, "", []wsproxy.Option{wsproxy.WithErrorHandler(func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(418) })}, 418, wsproxy.ErrUpstream},
		"one that adds": {upgrade, "", []wsproxy.Option{wsproxy.WithErrorHandler(func(w http.ResponseWriter, r *http.Request, err error) {
			w.Header().Set("X", "1")
			wsproxy.DefaultErrorHandler(w, r, err)
		})}, 502, wsproxy.ErrUpstream},
		"one that writes":       {upgrade, "", []wsproxy.Option{wsproxy.WithErrorHandler(func(w http.ResponseWriter, _ *http.Request, _ error) { io.WriteString(w, "all is well") })}, 200, wsproxy.ErrUpstream},
		"one that does nothing": {upgrade, "", []wsproxy.Option{wsproxy.WithErrorHandler(func(http.ResponseWriter, *http.Request, error) {})}, 200, wsproxy.ErrUpstream},
		"one that panics":       {upgrade, "", []wsproxy.Option{wsproxy.WithErrorHandler(func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) })}, 502, wsproxy.ErrUpstream},
		"one with no status":    {upgrade, "", []wsproxy.Option{wsproxy.WithErrorHandler(func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(1000) })}, 502, wsproxy.ErrUpstream},
		"one that flushes":      {upgrade, "", []wsproxy.Option{wsproxy.WithErrorHandler(func(w http.ResponseWriter, _ *http.Request, _ error) { http.NewResponseController(w).Flush() })}, 200, wsproxy.ErrUpstream},
		"one that closes":       {upgrade, "", []wsproxy.Option{wsproxy.WithErrorHandler(reset)}, 502, wsproxy.ErrUpstream},
		"a WithModifyResponse":  {upgrade, testkit.ResponseOK, []wsproxy.Option{wsproxy.WithModifyResponse(func(*http.Response) error { return errors.New("no") })}, 502, wsproxy.ErrUpstream},
		"a status that it set":  {upgrade, testkit.ResponseOK, []wsproxy.Option{wsproxy.WithModifyResponse(func(r *http.Response) error { r.StatusCode = 451; return nil })}, 451, nil},
		"a 103 and then a 401":  {upgrade, "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", nil, 401, nil},
	} {
		t.Run(name, func(t *testing.T) {
			target := "http://" + testkit.RefusingAddr(t)
			if test.response != "" {
				target = "http://" + testkit.ServeResponse(t, test.response)
			}
			refusals := make(chan refusal, 10)
			p, addr := testkit.ServeProxy(t, target, append(test.opts, onRefuse(refusals))...)
			client := testkit.Dial(t, addr)
			client.Send(t, test.request)
			got := testkit.Within(t, refusals, "OnRefuse")
			assert.Equal(t, "/x", got.path)
			assert.Equal(t, test.status, got.status)
			if test.err == nil {
				assert.NoError(t, got.err)
			} else {
				assert.ErrorIs(t, got.err, test.err)
			}
			client.Rest(t, "the client's")
			assert.Empty(t, refusals)
			stats := p.Stats()
			for status := range 1000 {
				want := int64(0)
				if status == test.status {
					want = 1
				}
				require.Equal(t, want, stats.Refused(status), status)
			}
		})
	}
}

// deadWriter is a middleware's ResponseWriter whose client is gone.
type deadWriter struct{ http.ResponseWriter }

func (deadWriter) FlushError() error             { return errGone }
func (w deadWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

var errGone = errors.New("the client is gone")

// The error handler's ResponseWriter reported that each Flush went well.
func TestAnErrorHandlerLearnsThatAFlushFailed(t *testing.T) {
	flushed := make(chan error, 1)
	p := testkit.NewProxy(t, "http://"+testkit.RefusingAddr(t),
		wsproxy.WithErrorHandler(func(w http.ResponseWriter, _ *http.Request, _ error) {
			flushed <- http.NewResponseController(w).Flush()
		}))
	addr := testkit.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.ServeHTTP(deadWriter{w}, r) }))
	client := testkit.Dial(t, addr)
	client.Send(t, testkit.SampleRequest)
	assert.Equal(t, errGone, testkit.Within(t, flushed, "the error handler"))
}

func TestPlainRequestsAndTunnelsAreNoRefusals(t *testing.T) {
	refusals := make(chan refusal, 10)
	r := testkit.PlainLink.Start(t, nil, onRefuse(refusals))
	r.Tunnel(t)
	r.Upstream.Respond("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
	res, _ := testkit.Do(t, r.Addr, testkit.PlainRequest)
	assert.Equal(t, 404, res.StatusCode)
	assert.ErrorIs(t, r.Proxy.Shutdown(testkit.EndedContext()), testkit.EndedContext().Err())
	assert.Empty(t, refusals)
	assert.Zero(t, r.Proxy.Stats().Refused(404))
}

func TestAnOnRefuseThatFailsHoldsNobodyUp(t *testing.T) {
	for name, fail := range map[string]func(){"panics": func() { panic("boo") }, "exits": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			var log testkit.Buffer
			refusals := make(chan refusal, 10)
			p, addr := testkit.ServeProxy(t, "http://"+testkit.RefusingAddr(t), wsproxy.WithLogger(slog.New(slog.NewTextHandler(&log, nil))),
				wsproxy.WithHooks(wsproxy.Hooks{OnRefuse: func(*http.Request, int, error) { fail() }}), onRefuse(refusals))
			for range 3 {
				client := testkit.Dial(t, addr)
				client.Send(t, testkit.SampleRequest)
				assert.Equal(t, 502, testkit.Within(t, refusals, "the hook after it").status)
				client.Rest(t, "the client's")
			}
			testkit.Eventually(t, func() bool { return strings.Count(log.String(), "hook=OnRefuse") == 3 }, "in the log: %s", log.String())
			assert.EqualValues(t, 3, p.Stats().Refused(502))
			assert.Zero(t, testkit.Counted(p))
		})
	}
}

// As JSON the reason was a number, and the error an empty object.
func TestEndingsAndCountsLogInWords(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if groups == nil && (a.Key == slog.TimeKey || a.Key == slog.LevelKey || a.Key == slog.MessageKey) {
			return slog.Attr{}
		}
		return a
	}}))
	for _, test := range []struct {
		value any
		want  string
	}{
		{wsproxy.ReasonPingTimeout, `"ping timeout"`},
		{wsproxy.Ending{Reason: wsproxy.ReasonFailed, Err: errors.New("no"), ClientClose: wsproxy.CloseFrame{Code: 1000, Reason: "bye"}, Handshake: 5},
			`{"reason":"failed","error":"no","client_close":{"code":1000,"reason":"bye"},"handshake":5,"lifetime":0,` +
				`"from_client":{"bytes":0,"messages":0},"from_upstream":{"bytes":0,"messages":0}}`},
		{wsproxy.Ending{Reason: wsproxy.ReasonClientClosed, UpstreamClose: wsproxy.CloseFrame{Code: 1005}, FromClient: wsproxy.FlowStats{Bytes: 7, Messages: 1}},
			`{"reason":"client closed","upstream_close":{"code":1005,"reason":""},"handshake":0,"lifetime":0,` +
				`"from_client":{"bytes":7,"messages":1},"from_upstream":{"bytes":0,"messages":0}}`},
		{wsproxy.CloseFrame{Code: 4000, Reason: strings.Repeat("é", 61)}, `{"code":4000,"reason":"` + strings.Repeat("é", 32) + `…"}`},
		{wsproxy.Stats{Live: 2, Opened: 3}, `{"handshakes":0,"live":2,"opened":3,"retries":0,` +
			`"from_client":{"bytes":0,"messages":0},"from_upstream":{"bytes":0,"messages":0}}`},
		{wsproxy.ServerState{Server: wsproxy.Server{Addr: "a:1", Backup: true}, Tunnels: 1, Opened: 5, Failed: 2, Fails: 1, Available: true},
			`{"addr":"a:1","tunnels":1,"opened":5,"failed":2,"fails":1,"available":true,"backup":true}`},
	} {
		out.Reset()
		log.Info("", "value", test.value)
		assert.JSONEq(t, `{"value":`+test.want+`}`, out.String())
	}

	r := testkit.PlainLink.Start(t, nil)
	client := r.Dial(t)
	client.Send(t, testkit.UpgradeGet("/chat?ticket=secret", "Sec-WebSocket-Protocol: a, b"))
	server := r.Upstream.Accept(t)
	server.Request(t)
	server.Send(t, strings.TrimSuffix(testkit.SampleSwitch, "\r\n")+"Sec-WebSocket-Protocol: b\r\n\r\n")
	client.WantSwitch(t)
	tunnel := testkit.OnlyTunnel(t, r.Proxy)
	out.Reset()
	log.Info("", "tunnel", tunnel)
	opened, _ := tunnel.OpenedAt().MarshalText()
	assert.JSONEq(t, `{"tunnel":{"id":1,"client":"127.0.0.1","host":"server.example.com","path":"/chat","protocol":"websocket",`+
		`"subprotocol":"b","server":"`+r.Upstream.Addr+`","opened_at":"`+string(opened)+
		`","from_client":{"bytes":0,"messages":0},"from_upstream":{"bytes":0,"messages":0}}}`, out.String())
	tunnel.Cut()
	client.Rest(t, "the client's")
	testkit.Eventually(t, func() bool { return r.Proxy.Stats().Live == 0 }, "the tunnel stays")
	out.Reset()
	log.Info("", "stats", r.Proxy.Stats())
	assert.Contains(t, out.String(), `"closed":{"killed":1}`)
}
