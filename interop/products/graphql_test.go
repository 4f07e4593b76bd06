package products_test

import (
	"net"
	"strconv"
	"testing"

	"example.com/wsproxy/interop/internal/lab"
	"example.com/wsproxy/interop/internal/talk"
	"github.com/stretchr/testify/require"
)

// next checks the next result that a script prints.
func next(t *testing.T, p *talk.Process, want string) {
	t.Helper()
	require.JSONEq(t, want, string(p.Next(t).Result))
}

// startGraphQL runs a server whose subscriptions are silent for longer than the read
// timeout. It returns its address.
func startGraphQL(t *testing.T) (addr string) {
	t.Helper()
	addr = lab.FreeAddr(t)
	host, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	pause := strconv.FormatInt((readTimeout + readTimeout/8).Milliseconds(), 10)
	next(t, talk.Start(t, node(t, "graphql.mjs", "serve", host, port, pause)), `"listening"`)
	return addr
}

// subscribe runs a client. With the argument "all" it also retries a refused
// connection.
func subscribe(t *testing.T, c *command, args ...string) *talk.Process {
	t.Helper()
	p := talk.Start(t, node(t, "graphql.mjs", append([]string{"subscribe", "ws://" + c.addr + "/graphql"}, args...)...))
	next(t, p, `"connected"`)
	next(t, p, `1`)
	return p
}

func testGraphQL(t *testing.T, program string) {
	c := start(t, program, append(pings, "-route", "/graphql=http://"+startGraphQL(t))...)
	byDefault, retries := subscribe(t, c), subscribe(t, c, "all")
	c.outlast(t)
	next(t, byDefault, `2`)
	next(t, retries, `2`)

	c.drain(t)
	next(t, byDefault, `{"closed": 1001}`)
	next(t, retries, `{"closed": 1001}`)
	// By default it retries after a Close frame, but not a refused connection.
	next(t, byDefault, `{"failed": "ECONNREFUSED"}`)
	c.restart(t)
	next(t, retries, `"connected"`)
	next(t, retries, `1`)
}

// A socket that stays open while the command restarts refuses no connection.
func testGraphQLAtAPassedSocket(t *testing.T, program string) {
	c := startAtSocket(t, program, append(pings, "-route", "/graphql=http://"+startGraphQL(t))...)
	byDefault := subscribe(t, c)
	c.drain(t)
	next(t, byDefault, `{"closed": 1001}`)
	c.restart(t)
	next(t, byDefault, `"connected"`)
	next(t, byDefault, `1`)
}
