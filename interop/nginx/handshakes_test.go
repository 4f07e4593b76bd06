package nginx_test

import (
	"strings"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	key       = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
	version   = "Sec-WebSocket-Version: 13"
	switching = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
)

// request returns an HTTP/1.1 request with its fields in order.
func request(line string, fields ...string) string {
	return line + " HTTP/1.1\r\n" + strings.Join(append([]string{"Host: server.example.com"}, fields...), "\r\n") + "\r\n\r\n"
}

// upgrade returns the sample handshake of RFC 6455 with more fields.
func upgrade(path string, fields ...string) string {
	return request("GET "+path, append([]string{"Upgrade: websocket", "Connection: Upgrade", key, version}, fields...)...)
}

// response returns a response with a short body and its length.
func response(status string, fields ...string) string {
	fields = append(fields, "Content-Type: text/plain", "Content-Length: 4")
	return "HTTP/1.1 " + status + "\r\n" + strings.Join(fields, "\r\n") + "\r\n\r\nbody"
}

// handshakes are for a location /websocket.
var handshakes = []trial{{
	name:     "the sample handshake of RFC 6455",
	request:  upgrade("/websocket", "Origin: http://example.com", "Sec-WebSocket-Protocol: chat, superchat"),
	response: strings.Replace(switching, "{accept}", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat", 1),
}, {
	name: "a Host with a port and capitals", differs: []string{hostPort},
	request:  strings.Replace(upgrade("/websocket"), "server.example.com", "Server.Example.com:8080", 1),
	response: switching,
}, {
	name: "tokens in other cases", differs: []string{upgradeToken},
	request:  strings.NewReplacer("Upgrade: websocket", "Upgrade: WebSocket", "Connection: Upgrade", "Connection: keep-alive, UPGRADE").Replace(upgrade("/websocket")),
	response: switching,
}, {
	name: "a list of protocols to switch to", differs: []string{upgradeToken},
	request:  strings.Replace(upgrade("/websocket"), "Upgrade: websocket", "Upgrade: foo/2, websocket", 1),
	response: switching,
}, {
	name:     "extensions, cookies and credentials",
	request:  upgrade("/websocket?token=a%20b&c", "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits", "Cookie: a=1; b=2", "Authorization: Bearer x", "User-Agent: y"),
	response: strings.Replace(switching, "\r\n\r\n", "\r\nSec-WebSocket-Extensions: permessage-deflate\r\nSet-Cookie: s=1; Path=/\r\nSet-Cookie: t=2\r\nX-Own: z\r\n\r\n", 1),
}, {
	name: "forwarding fields of the client's own", differs: []string{clientForwarding},
	request:  upgrade("/websocket", "X-Forwarded-For: 192.0.2.1, 192.0.2.2", "X-Forwarded-For: 192.0.2.3", "X-Real-IP: 192.0.2.9", "X-Forwarded-Proto: https", "X-Forwarded-Host: evil.example", "Forwarded: for=192.0.2.1"),
	response: switching,
}, {
	name: "forwarding fields with underscores", differs: []string{oddNames},
	request:  upgrade("/websocket", "X_Real_IP: 192.0.2.9", "X.Forwarded.For: 192.0.2.9", "My_Field: 1", "My.Field: 2"),
	response: switching,
}, {
	name: "fields that Connection names", differs: []string{hopByHop},
	request:  strings.Replace(upgrade("/websocket", "X-Secret: 1", "X-Forwarded-For: 192.0.2.1", "Keep-Alive: 5", "Proxy-Connection: close", "Proxy-Authorization: x", "TE: trailers"), "Connection: Upgrade", "Connection: Upgrade, X-Secret, X-Forwarded-For, X-Real-IP", 1),
	response: switching,
}, {
	name: "hop-by-hop fields of the 101", differs: []string{hopByHop},
	request:  upgrade("/websocket"),
	response: strings.Replace(switching, "Connection: Upgrade", "Connection: Upgrade, X-Private\r\nX-Private: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic", 1),
}, {
	name:     "Server and Date of the 101",
	request:  upgrade("/websocket"),
	response: strings.Replace(switching, "Connection: Upgrade", "Connection: Upgrade\r\nServer: recorder\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT", 1),
}, {
	name: "Upgrade without the Connection token", differs: []string{noUpgradeOption},
	request: strings.Replace(upgrade("/websocket"), "Connection: Upgrade\r\n", "", 1),
}, {
	name: "h2c", differs: []string{otherProtocols},
	request: request("GET /websocket", "Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA"),
}, {
	name: "a version other than 13", differs: []string{badHandshakes},
	request:  strings.Replace(upgrade("/websocket"), "13", "8", 1),
	response: switching,
}, {
	name: "no key", differs: []string{badHandshakes},
	request:  strings.Replace(upgrade("/websocket"), key+"\r\n", "", 1),
	response: switching,
}, {
	name: "a POST that would upgrade", differs: []string{badHandshakes},
	request:  strings.Replace(upgrade("/websocket", "Content-Length: 0"), "GET", "POST", 1),
	response: switching,
}, {
	name: "an upgrade with a body", differs: []string{badHandshakes},
	request:  upgrade("/websocket", "Content-Length: 4") + "body",
	response: switching,
}, {
	name: "an upgrade in HTTP/1.0", differs: []string{badHandshakes},
	request:  strings.Replace(upgrade("/websocket"), "HTTP/1.1", "HTTP/1.0", 1),
	response: switching,
}, {
	name: "a wrong accept key", differs: []string{badSwitches},
	request:  upgrade("/websocket"),
	response: strings.Replace(switching, "{accept}", "x3JJHMbDL1EzLkh9GBhXDw==", 1),
}, {
	name: "a switch to another protocol", differs: []string{badSwitches},
	request:  upgrade("/websocket"),
	response: strings.Replace(switching, "Upgrade: websocket", "Upgrade: tcp", 1),
}, {
	name: "an unrequested switch", differs: []string{badSwitches},
	request:  request("GET /websocket"),
	response: strings.Replace(switching, "\r\n\r\n", "\r\nContent-Length: 0\r\n\r\n", 1),
}, {
	name: "an upgrade on a connection that has had a GET",
	play: func(x *stage) {
		c := x.dial(x)
		x.up[0].begin(respondWith(fine))
		x.ask(c, request("GET /websocket"))
		x.up[0].begin(respondWith(switching))
		x.ask(c, upgrade("/websocket"))
		c.send(x, "hello")
		x.tunnel().expect(x, "hello")
	},
}, {
	name: "an empty X-Forwarded-For", differs: []string{emptyList}, request: upgrade("/websocket", "X-Forwarded-For:"),
	response: switching,
}, {
	name: "a request behind an upgrade that is refused", differs: []string{closeAfter},
	play: func(x *stage) {
		c := x.dial(x)
		x.ask(c, upgrade("/websocket")+request("GET /websocket/second", "Connection: close"))
		x.note("client: what follows", "%.15s", c.rest())
	},
	response: response("403 Forbidden"),
}, {
	name: "401 to an upgrade", differs: []string{closeAfter},
	request:  upgrade("/websocket"),
	response: response("401 Unauthorized", "WWW-Authenticate: Basic realm=x", "Set-Cookie: a=1"),
}, {
	name: "403 to an upgrade", differs: []string{closeAfter},
	request:  upgrade("/websocket"),
	response: response("403 Forbidden", "Connection: close"),
}, {
	name: "503 to an upgrade", differs: []string{closeAfter},
	request:  upgrade("/websocket"),
	response: response("503 Service Unavailable", "Retry-After: 7"),
}, {
	name: "200 to an upgrade", differs: []string{closeAfter},
	request: upgrade("/websocket"),
}, {
	name: "a redirect to an upgrade", differs: []string{closeAfter},
	request:  upgrade("/websocket"),
	response: response("307 Temporary Redirect", "Location: /elsewhere"),
}, {
	name: "103 before the 101", differs: []string{informational},
	play: func(x *stage) {
		c := x.dial(x)
		c.send(x, upgrade("/websocket"))
		c.SetReadDeadline(time.Now().Add(2 * time.Second))
		var came []string
		for m, err := c.readHead(); err == nil; m, err = c.readHead() {
			came = append(came, m.start)
			if m.status() == 101 {
				break
			}
		}
		x.note("client: what comes", "%s", strings.Join(came, ", "))
	},
	response: "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + switching,
}, {
	name: "no response", differs: []string{closeAfter, errorPages},
	request: upgrade("/websocket"),
	reply:   func(*peer, message) fate { return closes },
}, {
	name: "half a response", differs: []string{closeAfter, errorPages},
	request: upgrade("/websocket"),
	reply:   cutAfter("HTTP/1.1 101 Switching Pro"),
}, {
	name: "a response that is not HTTP", differs: []string{notHTTP},
	play: func(x *stage) {
		c := x.dial(x)
		c.send(x, upgrade("/websocket"))
		m, err := c.readHead()
		require.NoError(x, err)
		x.note("client: what comes", "%s", m.start)
	},
	reply: cutAfter("SSH-2.0-x\r\n\r\n"),
}, {
	name: "two Host fields", differs: []string{errorPages},
	request: upgrade("/websocket", "Host: other.example"),
}, {
	name: "no Host", differs: []string{errorPages},
	request: strings.Replace(upgrade("/websocket"), "Host: server.example.com\r\n", "", 1),
}, {
	name: "a field of 9000 bytes", differs: []string{headerLimits},
	request:  upgrade("/websocket", "Cookie: "+strings.Repeat("x", 9000)),
	response: switching,
}, {
	name: "a response with a header of 9000 bytes", differs: []string{headerLimits},
	request:  upgrade("/websocket"),
	response: strings.Replace(switching, "\r\n\r\n", "\r\nX-Large: "+strings.Repeat("x", 9000)+"\r\n\r\n", 1),
}, {
	name:     "a longer path in the location",
	request:  upgrade("/websocket/room/1"),
	response: switching,
}, {
	name: "a path that only begins like the location", differs: []string{prefixLocations},
	request:  upgrade("/websockets"),
	response: switching,
}, {
	name: "a path elsewhere", differs: []string{errorPages},
	request:  upgrade("/elsewhere"),
	response: switching,
}, {
	name: "a path with dots to elsewhere", differs: []string{uncleanPaths},
	request: request("GET /websocket/../elsewhere"),
}, {
	name: "a path with dots in the location", differs: []string{uncleanPaths},
	request: request("GET /websocket/a/../b"),
}, {
	name:    "bytes sent before the 101, and bytes glued to it",
	request: "",
	play: func(x *stage) {
		c := x.dial(x)
		x.ask(c, upgrade("/websocket")+"early")
		up := x.tunnel()
		up.expect(x, "early")
		c.expect(x, "glued")
	},
	response: switching + "glued",
}}

func cutAfter(text string) reply {
	return func(c *peer, _ message) fate {
		c.Write([]byte(text))
		return closes
	}
}
