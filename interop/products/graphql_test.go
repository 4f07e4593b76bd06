package products_test

import (
	"net"
	"testing"

	"example.com/wsproxy/interop/internal/talk"
	"github.com/stretchr/testify/require"
)

// next checks the next result that a script prints.
func next(t *testing.T, p *talk.Process, want string) {
	t.Helper()
	require.JSONEq(t, want, string(p.Next(t).Result))
}

func testGraphQL(t *testing.T, program string) {
	addr := freeAddr(t)
	host, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	next(t, talk.Start(t, node(t, "graphql.mjs", "serve", host, port)), `"listening"`)
	c := start(t, program, append(pings, "-route", "/graphql=http://"+addr)...)
	url := "ws://" + c.addr + "/graphql"
	byDefault := talk.Start(t, node(t, "graphql.mjs", "subscribe", url))
	retries := talk.Start(t, node(t, "graphql.mjs", "subscribe", url, "all"))
	for _, client := range []*talk.Process{byDefault, retries} {
		next(t, client, `"connected"`)
		next(t, client, `"first tick"`)
	}
	c.outlast(t)

	c.drain(t)
	next(t, byDefault, `{"closed": 1001}`)
	next(t, retries, `{"closed": 1001}`)
	// By default it retries after a Close frame, but not a refused connection.
	next(t, byDefault, `{"failed": "ECONNREFUSED"}`)
	c.restart(t)
	next(t, retries, `"connected"`)
	next(t, retries, `"first tick"`)
}
