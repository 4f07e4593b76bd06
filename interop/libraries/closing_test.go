package libraries_test

import (
	"fmt"
	"strings"
	"testing"

	"example.com/wsproxy"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// codes are Close codes that RFC 6455 allows, and codes that it does not allow.
var codes = []int{noCode, 0xffff, 999, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1007, 1008, 1009, 1010, 1011, 1012,
	1013, 1014, 1015, 1016, 2999, 3000, 3999, 4000, 4001, 4999, 5000}

// reasonFor returns a reason of up to 123 bytes, the most that fit into a Close
// frame.
func reasonFor(code int) string {
	switch code {
	case noCode, 1000:
		return ""
	case 1001, 4001:
		return strings.Repeat("世", 41)
	}
	return fmt.Sprintf("the reason for %d", code)
}

func TestEveryCloseCodeIsForwardedUnchanged(t *testing.T) {
	forEachPair(t, func(t *testing.T, c cell) {
		r := newRig(t, c, options{}, options{})
		for _, code := range codes {
			if c.client.sends(code) {
				client, server := r.open(t)
				closes(t, r, client, server, code, wsproxy.ReasonClientClosed)
			}
			if c.server.sends(code) {
				client, server := r.open(t)
				closes(t, r, server, client, code, wsproxy.ReasonUpstreamClosed)
			}
		}
	})
}

// closes makes one end of a tunnel close it with a code.
func closes(t *testing.T, r *rig, from, to *end, code int, reason wsproxy.Reason) {
	t.Helper()
	by := fmt.Sprintf("%d, %s", code, reason)
	require.NoError(t, from.close(code, reasonFor(code)), by)
	meant := closing{code: code, reason: reasonFor(code)}
	if code == noCode {
		meant.code = 1005
	}
	got := to.ended(t)
	refusal := to.refusal(code)
	if refusal == "" {
		assert.Equal(t, meant, got, by)
	} else {
		assert.ErrorContains(t, got.err, refusal, by)
	}
	reply := from.ended(t)
	e := r.ending(t)
	there, back := e.ClientClose, e.UpstreamClose
	if reason == wsproxy.ReasonUpstreamClosed {
		there, back = back, there
	}
	assert.Equal(t, reason, e.Reason, by)
	assert.Equal(t, meant.code, there.Code, by)
	if from.hangsUp() {
		return // no one reads the reply
	}
	assert.NoError(t, e.Err, by)
	if refused := from.refusal(back.Code); refused == "" || back.Code == 1005 {
		assert.Equal(t, reply.code, back.Code, "the reply to %s", by)
	} else {
		assert.ErrorContains(t, reply.err, refused, "the reply to %s", by)
	}
	if refusal != "" {
		assert.Equal(t, 1002, back.Code, "the reply to %s", by)
	}
}
