package kubernetes_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net/http"
	"testing"

	"example.com/wsproxy"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// attach is docker's request for the terminal of a container.
var attach = []string{"Connection: Upgrade", "Upgrade: tcp", "Content-Type: text/plain", "Content-Length: 0"}

// docker returns a handler that switches as its daemon does and then gives the
// connection to terminal.
func docker(terminal func(s *stream)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.Header.Get("Upgrade") != "tcp" || r.URL.RawQuery != "stream=1&stdin=1" {
			http.Error(w, "unable to upgrade to tcp, received 200", http.StatusBadRequest)
			return
		}
		s, err := switchTo(w, "UPGRADED", "Upgrade: tcp", "Content-Type: application/vnd.docker.raw-stream")
		if err != nil {
			return
		}
		defer s.Close()
		terminal(s)
	})
}

// open opens a tunnel to the terminal.
func (f *front) open(t *testing.T) *stream {
	t.Helper()
	res, s := f.ask(t, "POST /v1.47/containers/c0ffee/attach?stream=1&stdin=1", attach, "")
	require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
	assert.Equal(t, "tcp", res.Header.Get("Upgrade"))
	assert.Equal(t, "application/vnd.docker.raw-stream", res.Header.Get("Content-Type"))
	return s
}

func noise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{}).Read(b)
	return b
}

func TestATerminalCanSendAfterItsInputHasEnded(t *testing.T) {
	input := noise(3 << 20)
	bySocketAndTLS(t, func(t *testing.T, secure bool) {
		f := newFront(t, secure, docker(func(s *stream) {
			if got, err := io.ReadAll(s); err == nil && bytes.Equal(got, input) {
				s.Write(got)
			}
		}))
		s := f.open(t)
		_, err := s.Write(input)
		require.NoError(t, err)
		require.NoError(t, s.CloseWrite())
		output, err := io.ReadAll(s)
		require.NoError(t, err)
		require.True(t, bytes.Equal(input, output), "%d bytes went, %d came back", len(input), len(output))
		e := f.ending(t)
		assert.Equal(t, wsproxy.ReasonClientClosed, e.Reason)
		assert.NoError(t, e.Err)
		assert.Equal(t, wsproxy.FlowStats{Bytes: int64(len(input))}, e.FromClient)
		assert.Equal(t, wsproxy.FlowStats{Bytes: int64(len(input))}, e.FromUpstream)
	})
}

func TestATerminalCanReadAfterItsOutputHasEnded(t *testing.T) {
	input := noise(1 << 20)
	bySocketAndTLS(t, func(t *testing.T, secure bool) {
		heard := make(chan []byte, 1)
		f := newFront(t, secure, docker(func(s *stream) {
			io.WriteString(s, "bye")
			s.CloseWrite()
			got, _ := io.ReadAll(s)
			heard <- got
		}))
		s := f.open(t)
		output, err := io.ReadAll(s)
		require.NoError(t, err)
		assert.Equal(t, "bye", string(output))
		_, err = s.Write(input)
		require.NoError(t, err)
		require.NoError(t, s.CloseWrite())
		require.True(t, bytes.Equal(input, <-heard), "the input changed")
		e := f.ending(t)
		assert.Equal(t, wsproxy.ReasonUpstreamClosed, e.Reason)
		assert.NoError(t, e.Err)
	})
}

func TestTunnelCloseEndsATunnelOfRawBytesWithoutAFrame(t *testing.T) {
	bySocketAndTLS(t, func(t *testing.T, secure bool) {
		f := newFront(t, secure, docker(func(s *stream) { io.Copy(io.Discard, s) }))
		s := f.open(t)
		for tunnel := range f.Tunnels() {
			require.NoError(t, tunnel.Close(1000, "no frame can tell"))
		}
		got, _ := io.ReadAll(s)
		assert.Empty(t, got, "bytes that the upstream did not send")
		assert.Equal(t, wsproxy.ReasonKilled, f.ending(t).Reason)
	})
}

func TestAnUpgradeWithABodyIsRefused(t *testing.T) {
	f := newFront(t, false, docker(func(*stream) {}))
	const body = `{"Detach":false,"Tty":true}`
	res, _ := f.ask(t, "POST /v1.47/exec/c0ffee/start",
		[]string{"Connection: Upgrade", "Upgrade: tcp", "Content-Type: application/json", "Content-Length: 27"}, body)
	assert.Equal(t, http.StatusBadRequest, res.StatusCode, "what docker exec gets")
}
