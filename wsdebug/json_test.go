package wsdebug_test

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/wsdebug"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The JSON has all of Stats: a program needs no other source.
func TestTheJSONHasAllOfStats(t *testing.T) {
	endings := testkit.NewEndings()
	up := testkit.NewUpstream(t)
	p, addr := testkit.ServeProxy(t, up.URL, endings.Option(), wsproxy.WithOrigins("https://good.example"))
	page := "http://" + testkit.Serve(t, wsdebug.Handler(p, nil))
	client, server := testkit.Ends(testkit.Tunnel(t, addr, up))
	client.SendFrame(t, testkit.Text, "hello")
	server.ExpectFrame(t, testkit.Text, "hello")
	require.NoError(t, testkit.OnlyTunnel(t, p).Close(1001, "bye"))
	testkit.AnswerClose(t, 1001, client, server)
	endings.Next(t)
	client, server = testkit.Ends(testkit.Tunnel(t, addr, up))
	server.SendFrame(t, testkit.Binary, "hi")
	client.ExpectFrame(t, testkit.Binary, "hi")
	testkit.Do(t, addr, testkit.SampleRequestAnd("Origin: https://evil.example"))
	testkit.Eventually(t, func() bool { return p.Stats().Refused(http.StatusForbidden) == 1 && p.Stats().Live == 1 }, "no refusal counted")

	type flow struct{ Bytes, Messages int64 }
	got := getJSON[struct {
		Proxy   *string
		Proxies []string
		Stats   struct {
			Handshakes, Live *int
			Opened, Retries  *int64
			Closed, Refused  map[string]int64
			From_client      flow
			From_upstream    flow
		}
	}](t, page+"/?format=json")
	want := p.Stats()
	require.NotNil(t, got.Stats.Live)
	assert.Equal(t, "", *got.Proxy)
	assert.Equal(t, []string{}, got.Proxies)
	assert.Equal(t, want.Handshakes, *got.Stats.Handshakes)
	assert.Equal(t, want.Live, *got.Stats.Live)
	assert.Equal(t, want.Opened, *got.Stats.Opened)
	assert.Equal(t, want.Retries, *got.Stats.Retries)
	assert.Equal(t, want.FromClient, wsproxy.FlowStats(got.Stats.From_client))
	assert.Equal(t, want.FromUpstream, wsproxy.FlowStats(got.Stats.From_upstream))
	closed, refused := map[string]int64{}, map[string]int64{}
	for reason, n := range want.ClosedByReason() {
		closed[strings.ReplaceAll(reason.String(), " ", "_")] = n
	}
	for status, n := range want.RefusedByStatus() {
		refused[strconv.Itoa(status)] = n
	}
	assert.Equal(t, closed, got.Stats.Closed)
	assert.Equal(t, refused, got.Stats.Refused)
	assert.Equal(t, int64(1), got.Stats.Closed["killed"])
	assert.Equal(t, int64(1), got.Stats.Refused["403"])
}

// The names of the JSON are an interface. A server's state tells whether it is up, and
// until when it is down.
func TestTheJSONHasTheNamesOfTheDocs(t *testing.T) {
	dead, live := testkit.RefusingAddr(t), testkit.Serve(t, testkit.Echo("a"))
	u := testkit.Servers(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: dead, FailTimeout: time.Hour},
		wsproxy.Server{Addr: live, MaxFails: wsproxy.NeverDown, MaxTunnels: 5, Backup: true})
	p, addr := testkit.ServeProxy(t, "http://chat", wsproxy.WithUpstream(u))
	page := "http://" + testkit.Serve(t, wsdebug.HandlerOf([]wsdebug.Named{{Name: "/chat", Proxy: p, Upstream: u}}))
	res, _ := testkit.Do(t, addr, testkit.SampleRequest)
	require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)

	type object = map[string]any
	got := getJSON[object](t, page+"/?format=json")
	assert.Equal(t, "/chat", got["proxy"])
	assert.Equal(t, []any{"/chat"}, got["proxies"])
	assert.Equal(t, 1.0, got["matched"])
	assert.Nil(t, got["rates"])
	servers := got["servers"].([]any)
	require.Len(t, servers, 2)
	down := servers[0].(object)["state"].(object)
	until, err := time.Parse(time.RFC3339, down["down_until"].(string))
	require.NoError(t, err)
	assert.WithinDuration(t, time.Now().Add(time.Hour), until, time.Minute)
	down["down_until"] = nil
	assert.Equal(t, object{"addr": dead, "tunnels": 0.0, "state": object{"weight": 1.0, "max_tunnels": 0.0, "max_fails": 1.0,
		"fail_timeout": 3600.0, "backup": false, "down": false, "tunnels": 0.0, "opened": 0.0, "failed": 1.0, "fails": 1.0,
		"down_until": nil, "available": false}}, servers[0])
	assert.Equal(t, object{"addr": live, "tunnels": 1.0, "state": object{"weight": 1.0, "max_tunnels": 5.0, "max_fails": nil,
		"fail_timeout": 10.0, "backup": true, "down": false, "tunnels": 1.0, "opened": 1.0, "failed": 0.0, "fails": 0.0,
		"down_until": nil, "available": true}}, servers[1])
	tunnel := got["tunnels"].([]any)[0].(object)
	for _, name := range []string{"id", "client", "host", "path", "server", "protocol", "subprotocol", "opened_at", "last_activity",
		"age", "idle", "from_client", "from_upstream"} {
		assert.Contains(t, tunnel, name)
		delete(tunnel, name)
	}
	assert.Empty(t, tunnel, "undocumented")

	_, body := get(t, page)
	assert.Contains(t, body, "<span>down</span> until ")

	// A server that leaves the set keeps its tunnels, and has no state.
	require.NoError(t, u.SetServers(wsproxy.Server{Addr: dead}))
	servers = getJSON[object](t, page+"/?format=json")["servers"].([]any)
	assert.Equal(t, object{"addr": live, "tunnels": 1.0, "state": nil}, servers[1])
	_, body = get(t, page)
	assert.Contains(t, body, "<span>removed</span> has tunnels still")
}
