package nginx_test

import (
	"io"
	"strings"
	"time"
)

// plains are trials for every path.
var plains = []trial{{
	name:    "a GET",
	request: request("GET /a/b?c=d", "User-Agent: x", "Accept-Encoding: gzip", "Accept: */*"),
}, {
	name:     "a HEAD",
	request:  request("HEAD /"),
	response: "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\n",
}, {
	name:     "a response without a type",
	request:  request("GET /"),
	response: "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n<html>body",
}, {
	name:     "a POST with a length",
	request:  request("POST /", "Content-Length: 4", "Content-Type: text/plain") + "body",
	response: response("201 Created", "Location: /new"),
}, {
	name: "a POST in chunks", differs: []string{requestBuffering},
	request: request("POST /", "Transfer-Encoding: chunked") + "2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n",
}, {
	name:    "a POST without a body",
	request: request("POST /", "Content-Length: 0"),
}, {
	name: "a POST that expects 100-continue", differs: []string{expectField},
	request: request("POST /", "Content-Length: 4", "Expect: 100-continue") + "body",
}, {
	name: "a POST of 2 MB", differs: []string{bodyLimit},
	request: request("POST /", "Content-Length: 2000000") + strings.Repeat("x", 2000000),
}, {
	name: "TRACE", differs: []string{traceMethod},
	request: request("TRACE /"),
}, {
	name:    "a method that no RFC defines",
	request: request("PURGE /"),
}, {
	name: "a client of HTTP/1.0", differs: []string{oldClients},
	request: "GET / HTTP/1.0\r\nHost: server.example.com\r\n\r\n",
}, {
	name: "a client of HTTP/1.0 without Host", differs: []string{oldClients},
	request: "GET / HTTP/1.0\r\n\r\n",
}, {
	name:    "a client that closes",
	request: request("GET /", "Connection: close"),
}, {
	name:    "an absolute request line",
	request: request("GET http://other.example/x?y"),
}, {
	name: "two requests on a connection",
	play: func(x *stage) {
		c := x.dial(x)
		x.ask(c, request("GET /one"))
		x.ask(c, request("POST /two", "Content-Length: 4")+"body")
		c.Close()
	},
}, {
	name: "a response in chunks with a trailer", differs: []string{trailers},
	request:  request("GET /"),
	response: "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nX-Sum: 1\r\n\r\n",
}, {
	name:     "a response without length",
	request:  request("GET /"),
	response: "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nbody",
}, {
	name:     "a truncated response",
	request:  request("GET /"),
	response: "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: 9\r\n\r\nbody",
}, {
	name: "a reason of the upstream's own", differs: []string{reasonPhrases},
	request:  request("GET /"),
	response: response("200 Fine"),
}, {
	name: "a status without a name", differs: []string{reasonPhrases},
	request:  request("GET /"),
	response: response("299 Odd"),
}, {
	name:     "204",
	request:  request("GET /"),
	response: "HTTP/1.1 204 No Content\r\n\r\n",
}, {
	name:     "304",
	request:  request("GET /", "If-None-Match: \"1\""),
	response: "HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\n",
}, {
	name: "103 before the response", differs: []string{informational},
	request:  request("GET /"),
	response: "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + fine,
}, {
	name: "hop-by-hop fields of the response", differs: []string{hopByHop},
	request:  request("GET /"),
	response: response("200 OK", "Connection: X-Private", "X-Private: 1", "Keep-Alive: timeout=5", "Proxy-Authenticate: Basic", "Upgrade: h2c"),
}, {
	name: "Server and Date of the response", differs: []string{accelFields},
	request:  request("GET /"),
	response: response("200 OK", "Server: recorder", "Date: Thu, 01 Jan 1970 00:00:00 GMT", "X-Powered-By: y", "X-Accel-Buffering: no"),
}, {
	name:     "cookies",
	request:  request("GET /", "Cookie: a=1", "Cookie: b=2"),
	response: response("200 OK", "Set-Cookie: a=1; HttpOnly", "Set-Cookie: b=2"),
}, {
	name:     "empty and repeated fields",
	request:  request("GET /", "X-Empty:", "X-Two: 1", "X-Two: 2", "x-lower: 3"),
	response: response("200 OK", "X-Empty:", "X-Two: 1", "X-Two: 2", "x-lower: 3"),
}, {
	name:     "a 500",
	request:  request("GET /"),
	response: response("500 Internal Server Error"),
}, {
	name:    "a path with escapes",
	request: request("GET /a%20b/%2ea/%252e/%2F/c%c3%a9?q=%20+&&x=;%zz"),
}, {
	name:    "a path with double slashes",
	request: request("GET //a//b/.c/d.."),
}, {
	name: "a path with dots", differs: []string{dotSegments},
	request: request("GET /a/./b/../c"),
}, {
	name: "a path with escaped dots", differs: []string{dotSegments},
	request: request("GET /a/%2e%2e/b"),
}, {
	name: "a path with characters that should be escaped", differs: []string{illegalInPaths},
	request: request("GET /a|b^c\"d{e}\xc3\xa9"),
}, {
	name: "a path above the root", differs: []string{errorPages},
	request: request("GET /../a"),
}, {
	name: "a path with a broken escape", differs: []string{errorPages},
	request: request("GET /%zz"),
}, {
	name: "a path with an escaped zero", differs: []string{refusedPaths},
	request: request("GET /a%00b"),
}, {
	name: "a fragment", differs: []string{illegalInPaths},
	request: request("GET /a#b"),
}, {
	name:    "an empty query",
	request: request("GET /a?"),
}, {
	name: "a redirect to the upstream's own address", differs: []string{proxyRedirect},
	request: request("GET /"),
	reply: func(c *peer, m message) fate {
		return respondWith(response("302 Found", "Location: http://"+c.LocalAddr().String()+"/next?a=b"))(c, m)
	},
}, {
	name:     "a redirect elsewhere",
	request:  request("GET /"),
	response: response("302 Found", "Location: https://other.example/next"),
}, {
	name:     "a relative redirect",
	request:  request("GET /"),
	response: response("302 Found", "Location: /next"),
}}

func redirectsToItself(path string) reply {
	return func(c *peer, m message) fate {
		return respondWith(response("302 Found", "Location: http://"+c.LocalAddr().String()+path))(c, m)
	}
}

// buffering are trials that note when bytes are forwarded.
var buffering = []trial{{
	name: "the beginning of a response", differs: []string{responseBuffering},
	play: func(x *stage) {
		rest := make(chan struct{})
		x.up[0].begin(func(c *peer, _ message) fate {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
			<-rest
			io.WriteString(c, "later")
			return closes
		})
		c := x.dial(x)
		c.send(x, request("GET /websocket"))
		c.SetReadDeadline(time.Now().Add(time.Second))
		_, err := c.readHead()
		x.note("client: the beginning comes before the end", "%v", err == nil)
		close(rest)
		c.Close()
	},
}, {
	name: "the beginning of a request", differs: []string{requestBuffering},
	play: func(x *stage) {
		came := make(chan struct{})
		x.up[0].whenHeadComes(func() { close(came) })
		c := x.dial(x)
		c.send(x, request("POST /websocket", "Content-Length: 10")+"first")
		early := false
		select {
		case <-came:
			early = true
		case <-time.After(time.Second):
		}
		x.note("upstream: the beginning comes before the end", "%v", early)
		c.send(x, "later")
		x.noteResponse(c, "POST")
	},
}}
