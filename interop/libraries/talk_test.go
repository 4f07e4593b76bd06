package libraries_test

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"example.com/wsproxy"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const mebibyte = 1 << 20

// half is half noise, so compression can save at most half.
var half = sync.OnceValue(func() []byte {
	b := make([]byte, largest)
	rand.NewChaCha8([32]byte{}).Read(b)
	for i := 0; i < len(b); i += 2048 {
		copy(b[i:i+1024], bytes.Repeat(b[i:i+1], 1024))
	}
	return b
})

func content(n int) []byte { return half()[:n] }

// prose returns n bytes of text.
func prose(n int) []byte {
	const sentence = "Grüße aus der 世界 of 🌍! "
	text := strings.Repeat(sentence, n/len(sentence))
	return []byte(text + strings.Repeat("x", n-len(text)))
}

// pass sends a message from one end to the other and returns its length.
func pass(t *testing.T, from, to *end, m message) int {
	t.Helper()
	sent := make(chan error, 1)
	go func() { sent <- from.send(m) }()
	expect(t, to, m)
	require.NoError(t, <-sent)
	return len(m.payload)
}

func expect(t *testing.T, to *end, want message) {
	t.Helper()
	got := to.receive(t)
	require.Equal(t, want.text, got.text, "whether it is text")
	require.True(t, bytes.Equal(want.payload, got.payload),
		"a message of %d bytes came as another of %d", len(want.payload), len(got.payload))
}

// passInPieces is pass for a message of several fragments, with Pings between
// them if the library can send them.
func passInPieces(t *testing.T, from, to *end, text bool) int {
	t.Helper()
	pieces := [][]byte{content(3000), content(200_000)[100_000:], content(5), content(70_000)}
	if text {
		pieces = [][]byte{prose(9000), prose(150_000), prose(1)}
	}
	m := message{text, bytes.Join(pieces, nil)}
	sent := make(chan error, 1)
	go func() {
		sent <- from.sendInPieces(text, pieces, func() {
			if from.pingsWithin() {
				assert.NoError(t, from.ping(), "a Ping between two fragments")
			}
		})
	}()
	expect(t, to, m)
	require.NoError(t, <-sent)
	return len(m.payload)
}

func TestEveryLibraryTalksToEveryOther(t *testing.T) {
	forEachPair(t, func(t *testing.T, c cell) {
		for _, deflate := range []bool{false, true} {
			name := "as it is"
			if deflate {
				name = "with permessage-deflate"
			}
			t.Run(name, func(t *testing.T) { talk(t, c, deflate) })
		}
	})
}

func talk(t *testing.T, c cell, deflate bool) {
	r := newRig(t, c, options{[]string{"chat.v1", "chat.v2"}, deflate}, options{[]string{"chat.v3", "chat.v2"}, deflate})
	client, server := r.open(t)
	assert.Equal(t, "chat.v2", client.subprotocol())
	assert.Equal(t, "chat.v2", server.subprotocol())
	assert.Equal(t, deflate, strings.Contains(client.extensions(), "permessage-deflate"), "negotiated: %q", client.extensions())

	type count struct{ messages, bytes int }
	var fromClient, fromUpstream count
	both := func(pass func(from, to *end) int) {
		fromClient = count{fromClient.messages + 1, fromClient.bytes + pass(client, server)}
		fromUpstream = count{fromUpstream.messages + 1, fromUpstream.bytes + pass(server, client)}
	}
	for _, end := range []*end{client, server} {
		require.NoError(t, end.ping())
	}
	for _, n := range []int{0, 1, 125, 126, 65535, 65536, largest / 16} {
		both(func(from, to *end) int { return pass(t, from, to, message{false, content(n)}) })
		both(func(from, to *end) int { return pass(t, from, to, message{true, prose(n)}) })
	}
	for _, text := range []bool{false, true} {
		both(func(from, to *end) int { return passInPieces(t, from, to, text) })
	}
	if big := (message{false, content(largest)}); c.front == "ws" {
		fromClient = count{fromClient.messages + 1, fromClient.bytes + pass(t, client, server, big)}
	} else {
		fromUpstream = count{fromUpstream.messages + 1, fromUpstream.bytes + pass(t, server, client, big)}
	}
	require.NoError(t, client.close(1000, "done"))
	assert.Equal(t, closing{code: 1000, reason: "done"}, server.ended(t))
	client.ended(t)

	e := r.ending(t)
	assert.Equal(t, wsproxy.ReasonClientClosed, e.Reason)
	assert.Equal(t, 1000, e.ClientClose.Code)
	for _, way := range []struct {
		from string
		sent count
		seen wsproxy.FlowStats
	}{{"client", fromClient, e.FromClient}, {"upstream", fromUpstream, e.FromUpstream}} {
		assert.Equal(t, way.sent.messages, int(way.seen.Messages), "messages from the %s", way.from)
		if deflate {
			assert.Less(t, int(way.seen.Bytes), way.sent.bytes*3/4, "bytes from the %s", way.from)
		} else {
			assert.Greater(t, int(way.seen.Bytes), way.sent.bytes, "bytes from the %s", way.from)
		}
	}
}

func TestExtensionsAndSubprotocolsAreNegotiatedEndToEnd(t *testing.T) {
	forEachPair(t, func(t *testing.T, c cell) {
		for _, offer := range []options{{}, {deflate: true}, {subprotocols: []string{"a", "b"}}} {
			r := newRig(t, c, offer, options{[]string{"b"}[:min(1, len(offer.subprotocols))], true})
			client, server := r.open(t)
			alone, unproxied := r.dial(t, r.direct, r.trusted)
			assert.Equal(t, unproxied.offered, server.offered, "extensions offered")
			assert.Equal(t, alone.extensions(), client.extensions(), "extensions agreed on")
			assert.Equal(t, alone.subprotocol(), client.subprotocol(), "the client's subprotocol")
			assert.Equal(t, unproxied.subprotocol(), server.subprotocol(), "the server's subprotocol")
		}
	})
}
