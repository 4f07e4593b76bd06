package options_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
)

// The Transport calls the dialer on a goroutine of its own. There a panic ended
// the process, and a runtime.Goexit held the plain request for ever, past the
// connect timeout. An upgrade lost its connection without a response.
func TestADialerThatDoesNotReturnIsAFailureOfTheUpstream(t *testing.T) {
	tlsUpstream, _ := testkit.NewTLSUpstream(t)
	for name, exit := range map[string]func(){
		"panic":  func() { panic("boom") },
		"Goexit": runtime.Goexit,
	} {
		for place, serve := range map[string]func(opts ...wsproxy.Option) string{
			"WithDialContext": func(opts ...wsproxy.Option) string {
				dial := func(context.Context, string, string) (net.Conn, error) { exit(); return nil, nil }
				_, addr := testkit.ServeProxy(t, "http://app.example", append(opts, wsproxy.WithDialContext(dial))...)
				return addr
			},
			"WithTLSConfig": func(opts ...wsproxy.Option) string {
				verify := func([][]byte, [][]*x509.Certificate) error { exit(); return nil }
				_, addr := testkit.ServeProxy(t, tlsUpstream.URL, append(opts,
					wsproxy.WithTLSConfig(&tls.Config{InsecureSkipVerify: true, VerifyPeerCertificate: verify}))...)
				return addr
			},
		} {
			t.Run(name+" in "+place, func(t *testing.T) {
				errs, log := testkit.NewFailures(), new(testkit.Buffer)
				addr := serve(errs.Option(), wsproxy.WithLogger(slog.New(slog.NewTextHandler(log, nil))))
				for _, request := range []string{testkit.PlainRequest, testkit.SampleRequest} {
					res, _ := testkit.Do(t, addr, request)
					assert.Equal(t, http.StatusBadGateway, res.StatusCode)
					err := errs.Next(t).Err
					assert.ErrorIs(t, err, wsproxy.ErrUpstream)
					assert.ErrorContains(t, err, name)
				}
				log.Await(t, "dialer_exits_test.go") // the stack
			})
		}
	}
}

// A log handler that panics at the report of a dialer's panic runs on the
// dialer's goroutine, where nothing else would recover.
func TestALogHandlerThatPanicsAtADialersPanicDoesNotEndTheProcess(t *testing.T) {
	_, addr := testkit.ServeProxy(t, "http://app.example",
		wsproxy.WithErrorHandler(func(w http.ResponseWriter, _ *http.Request, err error) { w.WriteHeader(wsproxy.StatusCode(err)) }),
		wsproxy.WithLogger(slog.New(panicAt{slog.DiscardHandler, "dialing failed"})),
		wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) { panic("boom") }))
	res, _ := testkit.Do(t, addr, testkit.PlainRequest)
	assert.Equal(t, http.StatusBadGateway, res.StatusCode)
}

// panicAt panics at one message.
type panicAt struct {
	slog.Handler
	message string
}

func (h panicAt) Enabled(context.Context, slog.Level) bool { return true }

func (h panicAt) Handle(_ context.Context, r slog.Record) error {
	if r.Message == h.message {
		panic(h.message)
	}
	return nil
}
