package frame

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAControlFrameIsEncodedAsRFC6455Says(t *testing.T) {
	// The examples of section 5.7, toward a client.
	assert.Equal(t, "\x89\x05Hello", string(AppendControl(nil, OpPing, []byte("Hello"), false)))
	assert.Equal(t, "kept\x8a\x05Hello", string(AppendControl([]byte("kept"), OpPong, []byte("Hello"), false)))
	for _, opcode := range []byte{OpPing, OpPong, OpClose} {
		for _, payload := range []string{"", "\x03\xe8", "\x03\xe9going away", strings.Repeat("p", 125)} {
			assert.Equal(t, wire(0x80|opcode, false, payload), AppendControl(nil, opcode, []byte(payload), false))

			masked := AppendControl([]byte("kept"), opcode, []byte(payload), true)
			require.Len(t, masked, 4+6+len(payload))
			require.Equal(t, []byte{'k', 'e', 'p', 't', 0x80 | opcode, 0x80 | byte(len(payload))}, masked[:6])
			plain := slices.Clone(masked[10:])
			for i := range plain {
				plain[i] ^= masked[6+i%4]
			}
			require.Equal(t, payload, string(plain))
		}
	}
}

func TestEveryMaskedFrameHasAFreshKey(t *testing.T) {
	keys := map[string]bool{}
	for range 1000 {
		keys[string(AppendControl(nil, OpPing, []byte("x"), true)[2:6])] = true
	}
	assert.Greater(t, len(keys), 990, "different keys of 1,000")
}

func TestACloseFramesPayloadIsChecked(t *testing.T) {
	for _, test := range []struct {
		code   int
		reason string
		valid  bool
	}{
		{1000, "", true}, {1001, "shutting down", true}, {1003, "", true}, {1007, "", true}, {1014, "", true},
		{3000, "", true}, {4999, strings.Repeat("x", 123), true},
		{0, "", false}, {999, "", false}, {1004, "", false}, {1005, "", false}, {1006, "", false}, {1015, "", false},
		{2999, "", false}, {5000, "", false}, {-64536, "", false}, {66536, "", false},
		{1000, strings.Repeat("x", 124), false}, {1000, strings.Repeat("é", 62), false}, {1000, "\xc3", false},
	} {
		payload, err := ClosePayload(test.code, test.reason)
		if !test.valid {
			assert.ErrorContains(t, err, "close ", "%d %q", test.code, test.reason)
			continue
		}
		require.NoError(t, err)
		assert.Equal(t, string(binary.BigEndian.AppendUint16(nil, uint16(test.code)))+test.reason, string(payload))
	}
}

func TestACloseFramesPayloadIsParsed(t *testing.T) {
	for payload, want := range map[string]struct {
		code   int
		reason string
	}{
		"":                {CodeNoStatus, ""},
		"\x03":            {CodeNoStatus, ""},
		"\x03\xe8":        {CodeNormal, ""},
		"\x03\xe9restart": {CodeGoingAway, "restart"},
	} {
		code, reason := ParseClose([]byte(payload))
		assert.Equal(t, want.code, code, "%q", payload)
		assert.Equal(t, want.reason, reason, "%q", payload)
	}
}
