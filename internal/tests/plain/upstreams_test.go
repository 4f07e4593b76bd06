package plain_test

import (
	"io"
	"net"
	"net/http"
	"path/filepath"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAUnixSocketCanBeTheTarget(t *testing.T) {
	path := filepath.Join(testkit.SocketDir(t), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		testkit.Missing(t, "no unix sockets here: %v", err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			io.WriteString(w, r.Host+r.URL.Path)
			return
		}
		conn, brw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		io.WriteString(conn, testkit.SampleSwitch)
		io.Copy(conn, brw)
	})}
	served := make(chan struct{})
	go func() {
		defer close(served)
		s.Serve(l)
	}()
	t.Cleanup(func() {
		s.Close()
		<-served
	})
	_, addr := testkit.ServeProxy(t, "http://unix:"+path+":/base")
	res, _ := testkit.Do(t, addr, testkit.PlainRequest)
	assert.Equal(t, "server.example.com/base/page", testkit.Body(t, res))
	res, client := testkit.Do(t, addr, testkit.SampleRequest)
	require.Equal(t, 101, res.StatusCode)
	client.Send(t, "echo")
	client.Expect(t, "echo")
	require.NoError(t, client.CloseWrite())
	client.ExpectEOF(t, "")
}

func TestATLSUpstreamGetsPlainRequests(t *testing.T) {
	u, opts := testkit.NewTLSUpstream(t)
	_, addr := testkit.ServeProxy(t, u.URL, append(opts, wsproxy.WithTargetHost())...)
	client := testkit.Dial(t, addr)
	client.Send(t, testkit.PlainRequest)
	server := u.Accept(t)
	assert.Equal(t, u.Addr, server.Request(t).Host)
	server.Send(t, testkit.ResponseOKClose)
	assert.Equal(t, "ok", testkit.Body(t, client.Response(t)))
}
