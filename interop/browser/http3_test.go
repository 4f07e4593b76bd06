package browser_test

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"net/http"
	"strings"
	"sync"
	"testing"

	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/interop/internal/talk"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Chromium opens WebSockets over HTTP/3 behind a feature's flag, and takes a
// certificate of nobody's for QUIC by its key alone.
func TestChromiumOverHTTP3(t *testing.T) {
	program := testkit.Program(t, "chromium")
	server, _ := testkit.TLS()
	certificate, err := x509.ParseCertificate(server.Certificates[0].Certificate[0])
	require.NoError(t, err)
	key := sha256.Sum256(certificate.RawSubjectPublicKeyInfo)

	var mu sync.Mutex
	protos := map[string]bool{}
	f := talk.NewFrontWithin(t, func(h http.Handler) http.Handler {
		h = withPage(h)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			protos[r.Method+" "+r.Proto] = true
			mu.Unlock()
			h.ServeHTTP(w, r)
		})
	}, "h3", testkit.Serve(t, talk.Server()))
	addr := strings.TrimPrefix(f.URL, "wss://")
	browser := startWith(t, program,
		chromedp.Flag("enable-features", "EnableWebsocketsOverHttp3"),
		chromedp.Flag("origin-to-force-quic-on", addr),
		chromedp.Flag("ignore-certificate-errors-spki-list", base64.StdEncoding.EncodeToString(key[:])))
	page := open(t, browser, "https://"+addr)

	got := call[struct {
		Protocol   string  `json:"protocol"`
		Extensions string  `json:"extensions"`
		Echoes     []bool  `json:"echoes"`
		Closed     closing `json:"closed"`
	}](t, page, "connects()")
	assert.Equal(t, "chat.v2", got.Protocol)
	assert.Equal(t, "permessage-deflate", got.Extensions)
	assert.Equal(t, []bool{true, true, true, true, true}, got.Echoes)
	assert.Equal(t, closing{1000, "done", true, 0}, got.Closed)
	for expression, want := range map[string]closing{
		"closedByServer()":    {4001, "enough", true, 0},
		"closes()":            {4002, "my turn", true, 0},
		"closesWithoutCode()": {1005, "", true, 0},
		`fails("/drop")`:      {1006, "", false, 0},
		`fails("/refuse")`:    {1006, "", false, 1},
	} {
		got := call[closing](t, page, expression)
		if want.Code == 1006 {
			got.Errors = want.Errors // a reset is an error too, and may be seen before the end
		}
		assert.Equal(t, want, got, expression)
	}
	require.True(t, call[bool](t, page, "waits()"))
	require.NoError(t, f.Shutdown(t.Context()))
	assert.Equal(t, closing{1001, "shutting down", true, 0}, call[closing](t, page, "left"))
	mu.Lock()
	defer mu.Unlock()
	assert.Equal(t, map[string]bool{"GET HTTP/3.0": true, "CONNECT websocket": true}, protos)
}
