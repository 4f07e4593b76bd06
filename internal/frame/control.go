package frame

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"unicode/utf8"
)

// Close codes (RFC 6455, section 7.4.1).
const (
	CodeNormal         = 1000
	CodeGoingAway      = 1001
	CodeProtocolError  = 1002
	CodeNoStatus       = 1005 // a Close frame without a code; never sent
	CodePolicy         = 1008
	CodeTooBig         = 1009
	CodeServiceRestart = 1012 // IANA's registry
)

// AppendControl appends a control frame, with a fresh masking key if masked.
func AppendControl(b []byte, opcode byte, payload []byte, masked bool) []byte {
	h := Header{Fin: true, Opcode: opcode, Masked: masked}
	if masked {
		rand.Read(h.Key[:]) // must be unpredictable (RFC 6455, section 10.3); never fails
	}
	return Append(b, h, payload)
}

// ClosePayload returns the payload of a Close frame. It returns an error if an
// endpoint must not send the code. Allowed are 1000 to 1003, 1007 to 1014 and
// 3000 to 4999 (RFC 6455, section 7.4, and IANA's registry). It also returns an
// error if the reason is longer than 123 bytes or not UTF-8.
func ClosePayload(code int, reason string) ([]byte, error) {
	switch {
	case 1000 <= code && code <= 1003, 1007 <= code && code <= 1014, 3000 <= code && code <= 4999:
	default:
		return nil, fmt.Errorf("close code %d, want 1000 to 1003, 1007 to 1014 or 3000 to 4999", code)
	}
	if len(reason) > MaxControl-2 || !utf8.ValidString(reason) {
		return nil, fmt.Errorf("close reason %.64q, want at most %d bytes of UTF-8", reason, MaxControl-2)
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(code)), reason...), nil
}

// ParseClose returns the code and the reason in the payload of a Close frame. If
// the payload has no code, the code is [CodeNoStatus].
func ParseClose(payload []byte) (code int, reason string) {
	if len(payload) < 2 {
		return CodeNoStatus, ""
	}
	return int(binary.BigEndian.Uint16(payload)), string(payload[2:])
}
