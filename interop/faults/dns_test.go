//go:build linux

package faults_test

import (
	"net"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/miekg/dns"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A resolver is a DNS server that maps every name to the loopback address once
// its test allows it to respond.
type resolver struct {
	addr    string
	asked   chan struct{} // closed by the first query
	respond func()
}

func newResolver(t *testing.T) *resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	respond := make(chan struct{})
	r := &resolver{addr: conn.LocalAddr().String(), asked: make(chan struct{}), respond: sync.OnceFunc(func() { close(respond) })}
	asked := sync.OnceFunc(func() { close(r.asked) })
	ready, served := make(chan struct{}), make(chan error, 1)
	server := &dns.Server{PacketConn: conn, NotifyStartedFunc: func() { close(ready) },
		Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
			asked()
			<-respond
			m := new(dns.Msg)
			m.SetReply(q)
			if q.Question[0].Qtype == dns.TypeA {
				m.Answer = []dns.RR{&dns.A{A: net.IPv4(127, 0, 0, 1),
					Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET}}}
			}
			w.WriteMsg(m)
		})}
	go func() { served <- server.ActivateAndServe() }()
	<-ready
	t.Cleanup(func() {
		r.respond()
		server.Shutdown()
		<-served
	})
	return r
}

// startNamed starts an upstream, and a proxy to it by a name.
func startNamed(t *testing.T, r role) (p, up *process, names *resolver) {
	t.Helper()
	up, names = start(t, role{Kind: "upstream"}), newResolver(t)
	_, port, err := net.SplitHostPort(up.addr)
	require.NoError(t, err)
	r.Kind, r.Target, r.DNS = "proxy", "http://"+net.JoinHostPort("upstream.example", port), names.addr
	return start(t, r), up, names
}

func TestASlowResolverWithinTheConnectTimeoutIsUsed(t *testing.T) {
	bothKinds(t, func(t *testing.T, secure bool) {
		p, up, names := startNamed(t, role{TLS: secure, Connect: patience})
		const delay = 300 * time.Millisecond
		began := time.Now()
		time.AfterFunc(delay, names.respond)
		c := p.client(t, "/echo")
		assert.GreaterOrEqual(t, time.Since(began), delay)
		c.sendText(t, "hello")
		c.expectText(t, "hello")
		c.leave(t)
		settled(t, p, up)
	})
}

func TestAResolverThatNeverRespondsCauses504AfterTheConnectTimeout(t *testing.T) {
	bothKinds(t, func(t *testing.T, secure bool) {
		const timeout = time.Second
		p, up, names := startNamed(t, role{TLS: secure, Connect: timeout})
		began := time.Now()
		_, err := p.open("/echo")
		took := time.Since(began)
		require.Equal(t, ws.StatusError(504), err)
		assert.GreaterOrEqual(t, took, timeout)
		assert.Less(t, took, 9*time.Second, "Go's resolver gives up by itself after twice 5 seconds")
		log := p.ask(t, "report").Log
		assert.Contains(t, log, "status=504")
		assert.Contains(t, log, "lookup upstream.example")
		names.respond()
		settled(t, p, up)
	})
}

func TestAClientThatDisconnectsDoesNotWaitForTheResolver(t *testing.T) {
	bothKinds(t, func(t *testing.T, secure bool) {
		p, up, names := startNamed(t, role{TLS: secure, Connect: time.Hour})
		c, err := p.raw()
		require.NoError(t, err)
		_, err = c.Write([]byte(slowHandshake))
		require.NoError(t, err)
		select {
		case <-names.asked:
		case <-time.After(patience):
			require.Fail(t, "no query for the upstream's address")
		}
		c.Close()
		eventually(t, func() bool { return p.ask(t, "report").Handshakes == 0 }, "the handshake waits for the resolver")
		// Go's resolver itself keeps waiting for the response, or for its own
		// timeout of 5 seconds.
		names.respond()
		eventually(t, func() bool { return p.left(t) == "" }, "the lookup stays")
		assert.Zero(t, up.ask(t, "report").Accepted, "connections to the upstream")
		settled(t, p, up)
	})
}
