package main

import "testing"

func TestAcceptOfTheRFC(t *testing.T) {
	if got, want := acceptFor(clientKey), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="; got != want {
		t.Errorf("accepted with %q, want %q", got, want)
	}
}

func TestHeaderField(t *testing.T) {
	const head = "GET / HTTP/1.1\r\nHost: a:1\r\nsec-websocket-KEY:  abc \r\n\r\n"
	for name, want := range map[string]string{"Sec-WebSocket-Key": "abc", "host": "a:1", "Upgrade": ""} {
		if got := headerField(head, name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}
