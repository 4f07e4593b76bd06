package handshake_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAnUnrequestedSwitchIsRefused(t *testing.T) {
	for name, response := range map[string]string{
		"to websocket":           testkit.SampleSwitch,
		"to nothing":             "HTTP/1.1 101 Switching Protocols\r\n\r\n",
		"to h2c":                 "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
		"with Connection: close": "HTTP/1.1 101 Switching Protocols\r\nConnection: close\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			u := testkit.NewUpstream(t)
			for _, request := range []string{
				"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n",
				"GET / HTTP/1.1\r\nHost: example.com\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
			} {
				errs := testkit.NewFailures()
				_, addr := testkit.ServeProxy(t, u.URL, errs.Option(), wsproxy.WithKeepAlive())
				client := testkit.Dial(t, addr)
				client.Send(t, request)
				server := u.Accept(t)
				server.Request(t)
				server.Send(t, response)
				assert.Equal(t, 502, client.Response(t).StatusCode)
				assert.Empty(t, server.Rest(t, "the upstream's"))
				err := errs.Next(t).Err
				assert.ErrorIs(t, err, wsproxy.ErrUpstream)
				assert.ErrorContains(t, err, "101")
			}
		})
	}
}

func TestThe101HasNoHopByHopFields(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, addr := testkit.ServeProxy(t, u.URL)
	client := testkit.Dial(t, addr)
	client.Send(t, testkit.SampleRequest)
	server := u.Accept(t)
	server.Request(t)
	server.Send(t, testkit.SampleSwitchWith(t, "Connection: Upgrade", "connection: keep-alive, UPGRADE, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n"+
		"Proxy-Authenticate: Basic\r\nTrailer: X\r\nTE: trailers\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n"+
		"Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Extensions: permessage-deflate\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-End: kept")+"glued")
	assert.Equal(t, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Accept: "+testkit.SampleAccept+"\r\nSec-WebSocket-Extensions: permessage-deflate\r\n"+
		"Sec-WebSocket-Protocol: chat\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-End: kept\r\n\r\n", client.RawHeader(t))
	client.Expect(t, "glued")
}

// net/http accepts such lines but never writes them.
func TestThe101HasNoIllegalFields(t *testing.T) {
	for _, line := range []string{"X Y: 1", "Connection : X-End", "Transfer-Encoding : chunked", "X-A: a\rX-Injected: 1"} {
		t.Run(line, func(t *testing.T) {
			u := testkit.NewUpstream(t)
			_, addr := testkit.ServeProxy(t, u.URL)
			client := testkit.Dial(t, addr)
			client.Send(t, testkit.SampleRequest)
			server := u.Accept(t)
			server.Request(t)
			server.Send(t, testkit.SampleSwitchWith(t, "Connection: Upgrade", "Connection: Upgrade\r\n"+line))
			header := client.RawHeader(t)
			assert.NotContains(t, header, line)
			assert.NotContains(t, strings.ReplaceAll(header, "\r\n", ""), "\r")
		})
	}
}

func TestTheClientReceivesThe101AsModified(t *testing.T) {
	u := testkit.NewUpstream(t)
	broken := errors.New("broken rule")
	errs := testkit.NewFailures()
	_, addr := testkit.ServeProxy(t, u.URL, errs.Option(), wsproxy.WithModifyResponse(func(res *http.Response) error {
		switch res.Header.Get("X-Do") {
		case "fail":
			return broken
		case "status":
			res.StatusCode = 200
		}
		res.Header.Set("X-Modified", "1")
		res.Header.Set("Connection", "X-End")
		res.Body = io.NopCloser(bytes.NewReader([]byte("no body")))
		return nil
	}))
	for do, status := range map[string]int{"pass": 101, "fail": 502, "status": 502} {
		client := testkit.Dial(t, addr)
		client.Send(t, testkit.SampleRequest)
		server := u.Accept(t)
		server.Request(t)
		server.Send(t, testkit.SampleSwitchWith(t, "Upgrade: websocket", "Upgrade: websocket\r\nX-Do: "+do))
		res := client.Response(t)
		require.Equal(t, status, res.StatusCode, "for %s", do)
		if do == "pass" {
			assert.Equal(t, []string{"1"}, res.Header["X-Modified"])
			server.Send(t, "next")
			client.Expect(t, "next")
			continue
		}
		err := errs.Next(t).Err
		assert.ErrorIs(t, err, wsproxy.ErrUpstream)
		assert.Equal(t, do == "fail", errors.Is(err, broken))
		assert.Empty(t, client.Rest(t, "the client's"))
		assert.Empty(t, server.Rest(t, "the upstream's"))
	}
}

func TestA101IsAcceptedInAnySpelling(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, addr := testkit.ServeProxy(t, u.URL)
	for _, response := range []string{
		strings.Replace(testkit.SampleSwitch, "Connection: Upgrade", "connection: upgrade", 1),
		strings.Replace(testkit.SampleSwitch, "Connection: Upgrade", "CONNECTION: keep-alive, UPGRADE", 1),
		strings.Replace(testkit.SampleSwitch, "Upgrade: websocket", "upgrade: WebSocket", 1),
		strings.Replace(testkit.SampleSwitch, "Switching Protocols", "Web Socket Protocol Handshake", 1),
		strings.Replace(testkit.SampleSwitch, " Switching Protocols", "", 1),
		strings.ReplaceAll(testkit.SampleSwitch, "\r\n", "\n"),
	} {
		client := testkit.Dial(t, addr)
		client.Send(t, testkit.SampleRequest)
		server := u.Accept(t)
		server.Request(t)
		server.Send(t, response+"glued")
		res := client.Response(t)
		assert.Equal(t, 101, res.StatusCode, "for %q", response)
		assert.Equal(t, []string{"websocket"}, res.Header["Upgrade"])
		assert.Equal(t, []string{"Upgrade"}, res.Header["Connection"])
		client.Expect(t, "glued")
	}
}

// In httputil the Body of a 101 is its connection, so ModifyResponse can wrap
// it. Here a 101 has no body.
func TestABodyThatModifyResponseAddsToA101IsIgnored(t *testing.T) {
	r := testkit.PlainLink.Start(t, nil, wsproxy.WithModifyResponse(func(res *http.Response) error {
		assert.Equal(t, http.NoBody, res.Body)
		res.Body = io.NopCloser(strings.NewReader("not the upstream's"))
		return nil
	}))
	client, server := r.Tunnel(t)
	server.Send(t, "the upstream's")
	client.Expect(t, "the upstream's")
	client.Close()
	server.ExpectEOF(t, "")
}

func TestFieldsOfMiddlewareAppearInThe101(t *testing.T) {
	u := testkit.NewUpstream(t)
	p := testkit.NewProxy(t, u.URL)
	addr := testkit.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Request-Id", "7")
		w.Header().Add("Set-Cookie", "m=1")
		w.Header().Set("Connection", "keep-alive")
		w.Header().Set("X-Split", "a\r\nX-Injected: 1")
		p.ServeHTTP(w, r)
	}))
	client := testkit.Dial(t, addr)
	client.Send(t, testkit.SampleRequest)
	server := u.Accept(t)
	server.Request(t)
	server.Send(t, testkit.SampleSwitchWith(t, "Upgrade: websocket\r\n", "Upgrade: websocket\r\nSet-Cookie: u=2\r\n"))
	res := client.Response(t)
	assert.Equal(t, 101, res.StatusCode)
	assert.Equal(t, []string{"7"}, res.Header["X-Request-Id"])
	assert.Equal(t, []string{"m=1", "u=2"}, res.Header["Set-Cookie"])
	assert.Equal(t, []string{"Upgrade"}, res.Header["Connection"])
	assert.Empty(t, res.Header["X-Injected"])
}
