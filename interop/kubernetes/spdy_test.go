package kubernetes_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/moby/spdystream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// exec is kubectl's request to run a command in a container.
var exec = []string{"Connection: Upgrade", "Upgrade: SPDY/3.1", "Content-Length: 0",
	"X-Stream-Protocol-Version: v4.channel.k8s.io", "X-Stream-Protocol-Version: v3.channel.k8s.io"}

// kubelet returns a handler that switches to SPDY as a kubelet does and serves
// each stream in its own goroutine.
func kubelet(serve func(s *spdystream.Stream)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		offered := r.Header["X-Stream-Protocol-Version"]
		if !strings.EqualFold(r.Header.Get("Upgrade"), "SPDY/3.1") || !slices.Contains(offered, "v4.channel.k8s.io") {
			http.Error(w, "unable to upgrade: missing upgrade headers", http.StatusBadRequest)
			return
		}
		conn, err := switchTo(w, "Switching Protocols", "Upgrade: SPDY/3.1", "X-Stream-Protocol-Version: v4.channel.k8s.io")
		if err != nil {
			return
		}
		spdy(conn, true, serve)
	})
}

// spdy serves a connection until it ends.
func spdy(conn net.Conn, server bool, serve func(s *spdystream.Stream)) {
	c, err := spdystream.NewConnection(conn, server)
	if err != nil {
		conn.Close()
		return
	}
	var streams sync.WaitGroup
	c.Serve(func(s *spdystream.Stream) {
		s.SendReply(http.Header{}, false)
		streams.Go(func() { serve(s) })
	})
	streams.Wait()
	conn.Close()
}

// A session is kubectl's side.
type session struct {
	*spdystream.Connection
	t *testing.T
}

func newSession(t *testing.T, conn net.Conn) *session {
	c, err := spdystream.NewConnection(conn, false)
	require.NoError(t, err)
	served := make(chan struct{})
	go func() {
		defer close(served)
		c.Serve(spdystream.NoOpStreamHandler)
	}()
	t.Cleanup(func() {
		conn.Close()
		<-served
	})
	return &session{c, t}
}

func (f *front) exec(t *testing.T) *session {
	t.Helper()
	res, conn := f.ask(t, "POST /api/v1/namespaces/default/pods/web/exec?command=sh&stdin=true", exec, "")
	require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
	require.Equal(t, "SPDY/3.1", res.Header.Get("Upgrade"))
	require.Equal(t, "v4.channel.k8s.io", res.Header.Get("X-Stream-Protocol-Version"))
	return newSession(t, conn)
}

// stream opens a stream of a kind and waits for the reply.
func (s *session) stream(kind string) *spdystream.Stream {
	s.t.Helper()
	stream, err := s.CreateStream(http.Header{"Streamtype": {kind}}, nil, false)
	require.NoError(s.t, err)
	require.NoError(s.t, stream.WaitTimeout(testkit.Patience))
	return stream
}

// end ends the session in order. The proxy reports no error, whichever side
// closes its connection first.
func (s *session) end(f *front) {
	s.t.Helper()
	s.CloseWait()
	assert.NoError(s.t, f.ending(s.t).Err)
}

func kind(s *spdystream.Stream) string { return s.Headers().Get("Streamtype") }

func TestTheStreamsOfACommandAreForwarded(t *testing.T) {
	bySocketAndTLS(t, func(t *testing.T, secure bool) {
		var mu sync.Mutex
		streams := map[string]*spdystream.Stream{}
		f := newFront(t, secure, kubelet(func(s *spdystream.Stream) {
			mu.Lock()
			defer mu.Unlock()
			if streams[kind(s)] = s; len(streams) < 4 {
				return
			}
			input, err := io.ReadAll(streams["stdin"]) // until kubectl half-closes it
			streams["stdout"].Write(bytes.ToUpper(input))
			fmt.Fprintf(streams["stderr"], "%d bytes, %v", len(input), err)
			fmt.Fprintf(streams["error"], `{"status":"Success"}`)
			for _, stream := range streams {
				stream.Close()
			}
		}))
		s := f.exec(t)
		failure, stdin, stdout, stderr := s.stream("error"), s.stream("stdin"), s.stream("stdout"), s.stream("stderr")
		for _, piece := range []string{"all ", "your ", "base"} {
			_, err := io.WriteString(stdin, piece)
			require.NoError(t, err)
		}
		for _, stream := range []*spdystream.Stream{stdin, failure, stdout, stderr} {
			require.NoError(t, stream.Close())
		}
		for want, stream := range map[string]*spdystream.Stream{
			"ALL YOUR BASE":        stdout,
			"13 bytes, <nil>":      stderr,
			`{"status":"Success"}`: failure,
			"":                     stdin,
		} {
			got, err := io.ReadAll(stream)
			require.NoError(t, err)
			assert.Equal(t, want, string(got))
		}
		s.end(f)
	})
}

// echo echoes a stream until it is half-closed.
func echo(s *spdystream.Stream) {
	io.Copy(s, s)
	s.Close()
}

func TestStreamsDoNotMix(t *testing.T) {
	const size = 1 << 20
	bySocketAndTLS(t, func(t *testing.T, secure bool) {
		f := newFront(t, secure, kubelet(echo))
		s := f.exec(t)
		var ends sync.WaitGroup
		for i := range 8 {
			stream := s.stream("port")
			want := noise(size + i)[i:]
			ends.Go(func() {
				for rest := want; len(rest) > 0; rest = rest[min(len(rest), 10_000+i):] {
					if _, err := stream.Write(rest[:min(len(rest), 10_000+i)]); !assert.NoError(t, err) {
						return
					}
				}
				assert.NoError(t, stream.Close())
			})
			ends.Go(func() {
				got, err := io.ReadAll(stream)
				assert.NoError(t, err)
				assert.True(t, bytes.Equal(want, got), "stream %d changed: %d bytes", i, len(got))
			})
		}
		_, err := s.Ping()
		assert.NoError(t, err)
		ends.Wait()
		s.end(f)
	})
}

func TestAResetOfAStreamLeavesTheOthersOpen(t *testing.T) {
	bySocketAndTLS(t, func(t *testing.T, secure bool) {
		gone := make(chan error, 1)
		f := newFront(t, secure, kubelet(func(s *spdystream.Stream) {
			switch kind(s) {
			case "stdin": // the client resets this one
				_, err := io.Copy(io.Discard, s)
				gone <- err
			case "stdout": // the server resets this one
				s.Reset()
			default:
				echo(s)
			}
		}))
		s := f.exec(t)
		live, reset, cut := s.stream("port"), s.stream("stdin"), s.stream("stdout")
		got, err := io.ReadAll(cut)
		require.NoError(t, err)
		assert.Empty(t, got)
		require.NoError(t, reset.Reset())
		assert.NoError(t, <-gone)
		_, err = io.WriteString(live, "still here")
		require.NoError(t, err)
		require.NoError(t, live.Close())
		got, err = io.ReadAll(live)
		require.NoError(t, err)
		assert.Equal(t, "still here", string(got))
		s.end(f)
	})
}

func TestTheNameOfAProtocolIsAcceptedInAnyCase(t *testing.T) {
	for _, test := range []struct{ allowed, asked, offered string }{
		{"SPDY/3.1", "SPDY/3.1", "SPDY/3.1"},
		{"spdy/3.1", "SPDY/3.1", "spdy/3.1"},
		{"SPDY/3.1", "spdy/3.1", "SPDY/3.1"},
		{"SPDY/3.1", "h2c, spdy/3.1", "SPDY/3.1"},
	} {
		t.Run(test.asked+" where "+test.allowed+" may pass", func(t *testing.T) {
			f := newFront(t, false, kubelet(echo), wsproxy.WithUpgrades("websocket", test.allowed))
			header := slices.Concat([]string{"connection: keep-alive, upgrade", "upgrade: " + test.asked}, exec[2:])
			res, conn := f.ask(t, "POST /api/v1/namespaces/default/pods/web/exec", header, "")
			require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
			assert.Equal(t, test.offered, res.Header.Get("Upgrade"))
			s := newSession(t, conn)
			stream := s.stream("port")
			require.NoError(t, stream.Close())
			got, err := io.ReadAll(stream)
			require.NoError(t, err)
			assert.Empty(t, got)
			s.end(f)
		})
	}
}

func TestWithoutWithUpgradesSPDYIsAPlainRequest(t *testing.T) {
	f := newFront(t, false, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(w, "Upgrade %q, Connection %q, body %q", r.Header["Upgrade"], r.Header["Connection"], body)
	}), wsproxy.WithUpgrades("websocket"))
	for _, token := range []string{"SPDY/3.1", "tcp"} {
		res, _ := f.ask(t, "POST /exec", []string{"Connection: Upgrade", "Upgrade: " + token, "Content-Length: 2"}, "hi")
		assert.Equal(t, http.StatusForbidden, res.StatusCode)
		got, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		assert.Equal(t, `Upgrade [], Connection ["close"], body "hi"`, string(got))
	}
}
