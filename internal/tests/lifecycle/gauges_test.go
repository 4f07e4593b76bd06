package lifecycle_test

import (
	"errors"
	"io"
	"maps"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
)

// Gauges that are changed on some paths and not on others drift for ever
// (traefik/traefik#4226). Each way for a tunnel to fail leaves them at zero, and
// counts as one refusal or as one tunnel that opened and closed.
func TestGaugesReturnToZeroHoweverATunnelFails(t *testing.T) {
	t.Parallel()
	panics := func() { panic("hook") }
	onOpen := func(f func()) []wsproxy.Option {
		return []wsproxy.Option{testkit.OnOpen(func(*wsproxy.Tunnel, *http.Request) { f() })}
	}
	onClose := func(f func()) []wsproxy.Option {
		return []wsproxy.Option{testkit.OnClose(func(*wsproxy.Tunnel, wsproxy.Ending) { f() })}
	}
	modify := func(err error) []wsproxy.Option {
		return []wsproxy.Option{wsproxy.WithModifyResponse(func(*http.Response) error { return err })}
	}
	wrong := testkit.SampleSwitchWith(t, "Sec-WebSocket-Accept: ", "Sec-WebSocket-Accept: x")
	noHijack := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(struct{ http.ResponseWriter }{w}, r) })
	}
	same := func(h http.Handler) http.Handler { return h }
	for name, test := range map[string]struct {
		response   string // of the upstream; empty: it closes the connection
		opts       []wsproxy.Option
		middleware func(http.Handler) http.Handler
		opens      bool
	}{
		"OnOpen panics":             {testkit.SampleSwitch, onOpen(panics), same, true},
		"OnOpen exits":              {testkit.SampleSwitch, onOpen(runtime.Goexit), same, true},
		"the end's hook panics":     {testkit.SampleSwitch, onClose(panics), same, true},
		"the upstream says nothing": {"", nil, same, false},
		"a wrong 101":               {wrong, nil, same, false},
		"a status without a name":   {"HTTP/1.1 999 \r\nContent-Length: 0\r\n\r\n", nil, same, false},
		"a malformed status":        {"HTTP/1.1 +99 \r\n\r\n", nil, same, false},
		"WithModifyResponse fails":  {testkit.SampleSwitch, modify(errors.New("no")), same, false},
		"no Hijack":                 {testkit.SampleSwitch, nil, noHijack, false},
	} {
		for _, detached := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				u := testkit.Servers(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: strings.TrimPrefix(testkit.ServeResponse(t, test.response), "http://")})
				opts := append([]wsproxy.Option{wsproxy.WithUpstream(u)}, test.opts...)
				if detached {
					opts = append(opts, wsproxy.WithDetached())
				}
				p := testkit.NewProxy(t, "http://chat", opts...)
				client := testkit.Dial(t, testkit.Serve(t, test.middleware(p)))
				client.Send(t, testkit.SampleRequest)
				io.Copy(io.Discard, client) // the proxy's error, or a tunnel that the upstream closes
				client.Close()
				testkit.Eventually(t, func() bool {
					s := p.Stats()
					closed, refused := int64(0), int64(0)
					for _, n := range s.ClosedByReason() {
						closed += n
					}
					for _, n := range s.RefusedByStatus() {
						refused += n
					}
					return s.Handshakes == 0 && s.Live == 0 && s.Opened == closed && closed+refused == 1 && (closed == 1) == test.opens
				}, "the counts do not add up")
				assert.Equal(t, map[string]int{u.Servers()[0].Addr: 0}, maps.Collect(p.Stats().LiveByServer()))
				assert.Zero(t, u.Servers()[0].Tunnels)
			})
		}
	}
}
