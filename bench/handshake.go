package main

import (
	"crypto/sha1"
	"encoding/base64"
	"strings"
)

// clientKey is the Sec-WebSocket-Key of every client, from RFC 6455.
const clientKey = "dGhlIHNhbXBsZSBub25jZQ=="

// headerField returns a field of a message's head, or "".
func headerField(head, name string) string {
	for line := range strings.SplitSeq(head, "\r\n") {
		if field, value, ok := strings.Cut(line, ":"); ok && strings.EqualFold(field, name) {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// acceptFor returns the accept value for a Sec-WebSocket-Key (RFC 6455, section
// 4.2.2).
func acceptFor(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}
