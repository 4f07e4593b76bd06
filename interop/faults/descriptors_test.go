//go:build linux

package faults_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// mostDescriptors is the number of descriptors that a tunnel uses: the client's
// socket, a duplicate of it, the upstream's, an epoll instance and an eventfd.
const mostDescriptors = 5

func TestWithoutFreeDescriptorsClientsWaitOrGet502(t *testing.T) {
	t.Parallel()
	for _, beforehand := range []int{0, 1} {
		t.Run(fmt.Sprintf("with %d tunnels", beforehand), func(t *testing.T) {
			bothKinds(t, func(t *testing.T, secure bool) {
				p, up := startPair(t, role{TLS: secure})
				var old []*client
				for i := range beforehand {
					old = append(old, p.client(t, "/echo"))
					old[i].sendText(t, "here")
					old[i].expectText(t, "here")
				}
				descriptors := len(p.numbers())
				var outcomes []string
				var held []int
				for spare := range mostDescriptors + 2 {
					outcome, n := starve(t, p, spare)
					outcomes, held = append(outcomes, outcome), append(held, n)
					for _, c := range old {
						c.sendText(t, "still here")
						c.expectText(t, "still here")
					}
					eventually(t, func() bool {
						return p.ask(t, "report").Live == beforehand && len(p.numbers()) <= descriptors
					}, "the tunnel leaves something")
				}
				t.Logf("with 0, 1, 2… descriptors to spare: %s; held: %d", strings.Join(outcomes, ", "), held)
				assert.Equal(t, []string{"waits", "502"}, outcomes[:2])
				for spare, outcome := range outcomes[2:] {
					assert.Equal(t, "served", outcome, "with %d descriptors", spare+2)
				}
				if beforehand == 0 && !secure {
					// With too few for the event loop, package net dials. With
					// none left for the client's duplicate, the portable relay
					// takes the tunnel. Each of these steps fails once.
					assert.Equal(t, []int{2, 2, 4, 4, 4}, held[2:], "descriptors that the tunnel holds")
				}
				for _, c := range old {
					c.leave(t)
				}
				settled(t, p, up)
			})
		})
	}
}

// starve connects a client while the proxy may open only a few more
// descriptors. A waiting client must be served once the limit is lifted.
func starve(t *testing.T, p *process, spare int) (outcome string, held int) {
	t.Helper()
	before := len(p.numbers())
	logged := len(p.ask(t, "report").Log)
	p.spare(t, spare)
	type result struct {
		c   *client
		err error
	}
	served := make(chan result, 1)
	go func() {
		c, err := p.open("/echo")
		served <- result{c, err}
	}()
	if spare == 0 {
		outcome = "waits"
		eventually(t, func() bool {
			return strings.Contains(p.ask(t, "report").Log[logged:], "accept4: too many open files")
		}, "the server accepts without a descriptor")
		require.Empty(t, served, "a client without a descriptor gets a response")
		p.spare(t, -1)
	}
	var r result
	select {
	case r = <-served:
	case <-time.After(patience):
		require.Fail(t, "the client hangs", "with %d descriptors", spare)
	}
	p.spare(t, -1)
	var status ws.StatusError
	switch {
	case r.err == nil:
		defer r.c.Close()
		r.c.sendText(t, "hello")
		r.c.expectText(t, "hello")
		held = len(p.numbers()) - before
		r.c.leave(t)
		if outcome == "" {
			outcome = "served"
		}
	case errors.As(r.err, &status):
		require.Empty(t, outcome, "a client that waited got %d", int(status))
		outcome = fmt.Sprint(int(status))
		log := p.ask(t, "report").Log[logged:]
		require.Contains(t, log, "status=502")
		require.Contains(t, log, "too many open files")
	default:
		require.NoError(t, r.err, "with %d descriptors", spare)
	}
	return outcome, held
}
