package handshake_test

import (
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"syscall"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// spareDescriptors returns functions that make every new descriptor fail with
// EMFILE, and that undo it.
func spareDescriptors(t *testing.T) (deny, allow func()) {
	t.Helper()
	var limit syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
	set := func(limit syscall.Rlimit) func() {
		return func() { assert.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)) }
	}
	allow = set(limit)
	t.Cleanup(allow)
	return set(syscall.Rlimit{Max: limit.Max}), allow
}

// Without a descriptor for a duplicate, the portable relay keeps the connection
// that a loop has dialed. Before, that one could not be half-closed or reset: the
// end of one side cut the tunnel, and the bytes of the other side were lost.
func TestATunnelWithoutSpareDescriptorsEndsAsAnyOther(t *testing.T) {
	for name, test := range map[string]func(t *testing.T, client, server *testkit.Peer){
		"half-close": func(t *testing.T, client, server *testkit.Peer) {
			require.NoError(t, client.CloseWrite())
			server.ExpectEOF(t, "")
			server.Send(t, "late")
			server.Close()
			client.ExpectEOF(t, "late")
		},
		"reset": func(t *testing.T, client, server *testkit.Peer) {
			client.Reset()
			_, err := server.Read(make([]byte, 1))
			assert.True(t, testkit.IsReset(err), "%v", err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			u := testkit.NewUpstream(t)
			deny, allow := spareDescriptors(t)
			_, addr := testkit.ServeProxy(t, u.URL, wsproxy.WithModifyResponse(func(*http.Response) error {
				deny()
				return nil
			}))
			client, server := testkit.Tunnel(t, addr, u)
			allow()
			client.Send(t, "ping")
			server.Expect(t, "ping")
			test(t, client, server)
		})
	}
}

// Before, a trace in the request's context was not told about a dial to an IP
// address.
func TestATraceInTheContextOfARequestIsCalledForTheDial(t *testing.T) {
	t.Parallel()
	u := testkit.NewUpstream(t)
	p := testkit.NewProxy(t, u.URL)
	dialed := make(chan string, 1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.ServeHTTP(w, r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
			ConnectDone: func(_, addr string, err error) {
				assert.NoError(t, err)
				dialed <- addr
			},
		})))
	}))
	t.Cleanup(s.Close)
	testkit.Tunnel(t, s.Listener.Addr().String(), u)
	select {
	case addr := <-dialed:
		assert.Equal(t, u.Addr, addr)
	default:
		t.Error("the trace was not called")
	}
}
