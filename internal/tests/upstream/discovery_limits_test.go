package upstream_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A zone is a DNS server. It has srv SRV records for the first name in a query
// and addrs addresses for every other name, and delays each answer.
type zone struct {
	srv, addrs int
	after      time.Duration
}

// serve answers queries over TCP (RFC 1035, section 4.2.2).
func (z zone) serve(conn net.Conn) {
	defer conn.Close()
	for {
		var length [2]byte
		if _, err := io.ReadFull(conn, length[:]); err != nil {
			return
		}
		query := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(conn, query); err != nil {
			return
		}
		time.Sleep(z.after)
		answer := z.answer(query)
		conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
	}
}

// answer makes the answer to a query (RFC 1035, section 4; RFC 2782).
func (z zone) answer(query []byte) []byte {
	end := 12
	for query[end] != 0 {
		end += 1 + int(query[end])
	}
	end++
	kind := binary.BigEndian.Uint16(query[end:])
	res := append([]byte{query[0], query[1], 0x85, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, query[12:end+4]...)
	n := 0
	record := func(data ...byte) {
		res = append(res, 0xc0, 12, byte(kind>>8), byte(kind), 0, 1, 0, 0, 0, 0)
		res = append(binary.BigEndian.AppendUint16(res, uint16(len(data))), data...)
		n++
	}
	switch kind {
	case 33: // SRV
		for i := range z.srv {
			label := fmt.Sprintf("h%04d", i)
			record(append(append([]byte{0, 1, 0, 1, 0x1f, 0x90, byte(len(label))}, label...), 0)...)
		}
	case 1: // A
		host := query[13:18] // the label
		for i := range z.addrs {
			record(10, host[3]*10+host[4], byte(i>>8), byte(i))
		}
	}
	binary.BigEndian.PutUint16(res[6:], uint16(n))
	return res
}

// resolver returns a Resolver that queries z over connections made by connect.
func (z zone) resolver(connect func() (near, far net.Conn)) wsproxy.DNSSRV {
	return wsproxy.DNSSRV{Name: "_ws._tcp.chat.example.", Resolver: &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		near, far := connect()
		go z.serve(far)
		return near, nil
	}}}
}

// Before, a DNS server could return any number of servers. The proxy looked up
// one after the other, and then walked all of them for each request.
func TestDNSSRVReturnsAtMost1024Servers(t *testing.T) {
	for _, test := range []struct {
		zone zone
		err  string
	}{
		{zone{srv: 1, addrs: 1024}, ""},
		{zone{srv: 1025}, "wsproxy: _ws._tcp.chat.example. has 1025 SRV records, want at most 1024"},
		{zone{srv: 2, addrs: 513}, "wsproxy: the SRV records of _ws._tcp.chat.example. have more than 1024 servers"},
	} {
		servers, again, err := test.zone.resolver(net.Pipe).Resolve(t.Context())
		assert.Equal(t, 5*time.Second, again)
		if test.err != "" {
			assert.EqualError(t, err, test.err)
			continue
		}
		require.NoError(t, err)
		assert.Len(t, servers, 1024)
	}
}

// Before, each lookup had its own timeout, so one Resolve could take one
// timeout for each record.
func TestOneTimeoutBoundsAllLookupsOfAResolve(t *testing.T) {
	connect := func() (net.Conn, net.Conn) {
		near, far := testkit.NewMemConns(testkit.Room)
		return near, far
	}
	_, _, err := zone{srv: 1, addrs: 1}.resolver(connect).Resolve(t.Context()) // net reads its configuration outside the bubble
	require.NoError(t, err)
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		_, again, err := zone{srv: 100, addrs: 1, after: 2 * time.Second}.resolver(connect).Resolve(t.Context())
		require.ErrorContains(t, err, "wsproxy: the lookups took more than 30s: ")
		assert.Equal(t, 30*time.Second, time.Since(start))
		assert.Equal(t, 5*time.Second, again)
		time.Sleep(time.Minute) // DNS servers for the names queried last
	})
}
