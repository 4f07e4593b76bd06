package nginx_test

// The titles of the differences, as in docs/nginx.md.
const (
	moreForwarding    = "X-Forwarded-Proto and X-Forwarded-Host"
	unsetForwarding   = "X-Real-IP and X-Forwarded-For without their lines"
	innerForwarding   = "X-Forwarded-Proto and X-Forwarded-Host of a second proxy"
	clientForwarding  = "The client's other forwarding fields"
	emptyList         = "An empty X-Forwarded-For"
	serverField       = "Server"
	dateField         = "Date"
	keepAliveField    = "Connection: keep-alive"
	upgradeOption     = "Connection: Upgrade in a 101"
	orderOfFields     = "The order of fields"
	caseOfFields      = "The case of field names"
	hostPort          = "Host, its port and its capitals"
	upgradeToken      = "The Upgrade token"
	hopByHop          = "Hop-by-hop fields"
	oddNames          = "Underscores and dots in field names"
	noUpgradeOption   = "Upgrade without Connection: upgrade"
	otherProtocols    = "Protocols other than websocket"
	badHandshakes     = "Handshakes that break RFC 6455"
	badSwitches       = "A 101 that does not fit"
	closeAfter        = "The client's connection after an upgrade that fails"
	informational     = "1xx responses"
	errorPages        = "Error pages"
	notHTTP           = "A response that is not HTTP"
	headerLimits      = "Limits on headers"
	bodyLimit         = "The limit on request bodies"
	prefixLocations   = "Paths that only begin like the location"
	uncleanPaths      = "Paths with dots or double slashes"
	dotSegments       = "Paths with a segment of dots"
	locationSlash     = "The path of a location without its slash"
	decodedPaths      = "Escapes where proxy_pass has a path"
	illegalInPaths    = "Characters that no path may have"
	refusedPaths      = "Paths that nginx refuses"
	traceMethod       = "TRACE"
	hardWired         = "Connection \"upgrade\" without the map"
	requestBuffering  = "Buffering of requests"
	responseBuffering = "Buffering of responses"
	expectField       = "Expect: 100-continue"
	oldClients        = "Clients of HTTP/1.0"
	trailers          = "Trailers"
	reasonPhrases     = "Reason phrases"
	accelFields       = "X-Accel fields"
	proxyRedirect     = "Location with the upstream's address"
	oldUpstreams      = "HTTP/1.0 toward the upstream"
	everyRoute        = "Upgrades where the location has no lines for them"
	trustedList       = "X-Forwarded-For after real_ip_header"
	untrustedList     = "X-Forwarded-For of a peer that is not trusted"
	noServerLeft      = "No server left"
	allDown           = "All servers down"
	retryStatus       = "Statuses in proxy_next_upstream"
	halfClose         = "Half-close"
	resets            = "Resets"
	idleTunnels       = "The end of an idle tunnel"
)

var differences = []difference{{
	title: moreForwarding, everywhere: true,
	reason: "an application needs both for its links",
	lines: []string{`upstream.*: field x-forwarded-proto: none → the client's scheme`,
		`upstream.*: field x-forwarded-host: none → (server\.example\.com|Server\.Example\.com:8080|other\.example)`},
}, {
	title:  unsetForwarding,
	reason: "an upstream that reads them must not read the client's",
	lines: []string{`upstream.*: field x-(real-ip|forwarded-for): none → 127\.0\.0\.1`,
		`upstream: field x-forwarded-for: 192\.0\.2\.1 → 192\.0\.2\.1, 127\.0\.0\.1`},
}, {
	title:  innerForwarding,
	reason: "to the inner proxy the outer one is a client, unless WithTrustedProxies names it",
	lines:  []string{`upstream: field x-forwarded-(proto: none → http|host: none → ws\.example\.com)`},
}, {
	title:  clientForwarding,
	reason: "the upstream might trust them; WithTrustedProxies keeps those of your proxies",
	lines: []string{`upstream: field forwarded: for=192\.0\.2\.1 → none`,
		`upstream: field x-forwarded-(host: evil\.example → server\.example\.com|proto: https → the client's scheme)`},
}, {
	title:  emptyList,
	reason: "an empty element has no meaning",
	lines:  []string{`upstream: field x-forwarded-for: , 127\.0\.0\.1 → 127\.0\.0\.1`},
}, {
	title: serverField, everywhere: true,
	reason: "the upstream is the server",
	lines:  []string{`client.*: field server: nginx/[0-9.]+ → (none|recorder)`},
}, {
	title: dateField, everywhere: true,
	reason: "RFC 9110, section 6.6.1: a recipient adds a missing Date; a 101 needs none",
	lines:  []string{`client.*: field date: now → (none|Thu, 01 Jan 1970 00:00:00 GMT)`},
}, {
	title: keepAliveField, everywhere: true,
	reason: "it is HTTP/1.1's default",
	lines:  []string{`client.*: field connection: keep-alive → none`},
}, {
	title: upgradeOption, everywhere: true,
	reason: "case does not matter; RFC 6455 writes it so",
	lines:  []string{`client.*: field connection: upgrade → Upgrade`},
}, {
	title: orderOfFields, everywhere: true,
	reason: "the order of different fields does not matter",
	lines:  []string{`.*: order of fields: .*`},
}, {
	title: caseOfFields, everywhere: true,
	reason: "case does not matter; net/http normalizes it",
	lines:  []string{`.*: case of fields: .*`},
}, {
	title:  hostPort,
	reason: "an application needs the port for its links and its check of Origin",
	lines:  []string{`upstream: field host: server\.example\.com → Server\.Example\.com:8080`},
}, {
	title:  upgradeToken,
	reason: "the upstream may switch only to the protocol that the proxy chose",
	lines:  []string{`upstream: field upgrade: (WebSocket|foo/2, websocket) → websocket`},
}, {
	title:  hopByHop,
	reason: "RFC 9110, section 7.6.1",
	lines: []string{`upstream: field (x-secret|proxy-connection|proxy-authorization): .* → none`,
		`client: field (x-private: 1|proxy-authenticate: Basic|upgrade: h2c) → none`},
}, {
	title:  oddNames,
	reason: "such names are legal; aliases of the forwarding fields never pass",
	lines:  []string{`upstream: field my[._]field: none → [12]`},
}, {
	title:  noUpgradeOption,
	reason: "RFC 6455, section 4.2.1, and RFC 9110, section 7.8, require the option",
	lines:  []string{`upstream: field upgrade: websocket → none`, `upstream: field connection: upgrade → close`},
}, {
	title:  otherProtocols,
	reason: "h2c would carry requests past all rules in front of the upstream",
	lines: []string{`upstream: field upgrade: h2c → none`, `upstream: field connection: upgrade → close`,
		`upstream: field http2-settings: .* → none`},
}, {
	title:  badHandshakes,
	reason: "RFC 6455, section 4.2.1; a body could be a second request to the upstream",
	lines:  []string{`client: status: 101 → 4(00|05|26)`, `upstream requests: 1 → 0`},
}, {
	title:  badSwitches,
	reason: "what follows would be neither HTTP nor WebSocket, and no rule would apply to it",
	lines:  []string{`client: status: 101 → 502`},
}, {
	title:  closeAfter,
	reason: "the client may have sent frames already, which must not be read as a request",
	lines: []string{`client: field connection: keep-alive → close`, `client: end: none → "", EOF`,
		`client: what follows: "HTTP/1\.1 403 F → "", EOF`, `upstream requests: 2 → 1`},
}, {
	title:  informational,
	reason: "RFC 9110, section 15.2: a proxy forwards them",
	lines: []string{`client: informational: HTTP/1\.1 103 Early Hints\[\[Server .* → HTTP/1\.1 103 Early Hints\[\[Link </a>\]\]`,
		`client: field date: none → now`,
		`client: what comes:  → HTTP/1\.1 103 Early Hints, HTTP/1\.1 101 Switching Protocols`},
}, {
	title:  errorPages,
	reason: "WithErrorHandler replaces the text; net/http writes its own errors before any handler runs",
	lines: []string{`client: body: "<html>.*nginx.* → "[^<]*"`,
		`client: field content-length: [0-9]+ → ([0-9]+|none)`,
		`client: field content-type: text/html → (text/plain; charset=utf-8|none)`,
		`client: field x-content-type-options: none → nosniff`,
		`client: field connection: close → none`,
		`client: reason: (Bad Request → Bad Request: missing required Host header|Gateway Time-out → Gateway Timeout)`,
		`client: version: HTTP/1\.1 → HTTP/1\.0`},
}, {
	title:  notHTTP,
	reason: "nginx takes it for HTTP/0.9",
	lines:  []string{`client: what comes: SSH-2\.0-x → HTTP/1\.1 502 Bad Gateway`},
}, {
	title:  headerLimits,
	reason: "net/http's limits are 1 MB either way; http.Server's MaxHeaderBytes changes the client's",
	lines:  []string{`client: status: (400|502) → 101`, `upstream requests: 0 → 1`},
}, {
	title:  bodyLimit,
	reason: "http.MaxBytesHandler limits bodies",
	lines:  []string{`client: status: 413 → 200`, `upstream requests: 0 → 1`},
}, {
	title:  prefixLocations,
	reason: "http.ServeMux matches whole segments",
	lines:  []string{`client: status: 101 → 404`, `upstream requests: 1 → 0`},
}, {
	title:  uncleanPaths,
	reason: "http.ServeMux redirects to the clean path; without it double slashes pass as they are, as in nginx",
	lines:  []string{`client: status: (404|200) → 307`, `upstream requests: 1 → 0`},
}, {
	title:  dotSegments,
	reason: "a rule in front of the proxy, the proxy and the upstream could each read another path",
	lines:  []string{`client: status: 200 → 400`, `upstream requests: 1 → 0`},
}, {
	title:  locationSlash,
	reason: "http.ServeMux keeps the method",
	lines:  []string{`client: status: 301 → 307`},
}, {
	title:  decodedPaths,
	reason: "%2F and / are not the same to an application",
	lines:  []string{`upstream: request line: GET /base/a(/b)? HTTP/1\.1 → GET /base/(a%2Fb|%61) HTTP/1\.1`},
}, {
	title:  illegalInPaths,
	reason: "net/http always escapes them; to the application it is the same path",
	lines: []string{`upstream: request line: GET /a\|b.* → GET /a%7Cb%5Ec%22d%7Be%7D%C3%A9 HTTP/1\.1`,
		`upstream: request line: GET /a#b HTTP/1\.1 → GET /a%23b HTTP/1\.1`},
}, {
	title:  refusedPaths,
	reason: "the upstream decides",
	lines:  []string{`client: status: 400 → 200`, `upstream requests: 0 → 1`},
}, {
	title:  traceMethod,
	reason: "methods are the application's business",
	lines:  []string{`client: status: 405 → 200`, `upstream requests: 0 → 1`},
}, {
	title:  hardWired,
	reason: "the map is built in",
	lines:  []string{`upstream.*: field connection: upgrade → close`},
}, {
	title:  requestBuffering,
	reason: "as with proxy_request_buffering off: nothing is held back",
	lines: []string{`upstream: field content-length: 4 → none`, `upstream: field transfer-encoding: none → chunked`,
		`upstream: the beginning comes before the end: false → true`},
}, {
	title:  responseBuffering,
	reason: "as with proxy_buffering off: event streams and long polls need it",
	lines: []string{`client: the beginning comes before the end: false → true`,
		`client: body: "" → "body"`, `client: body's end: EOF → unexpected EOF`},
}, {
	title:  expectField,
	reason: "the upstream may refuse before the body is sent",
	lines:  []string{`upstream: field expect: none → 100-continue`},
}, {
	title:  oldClients,
	reason: "net/http responds in the client's version",
	lines: []string{`client: version: HTTP/1\.1 → HTTP/1\.0`, `client: field connection: close → none`,
		`client: end: "", EOF → none`},
}, {
	title:  trailers,
	reason: "they are part of the response",
	lines:  []string{`client: body: "body" → "body \[trailer X-Sum: 1\]"`},
}, {
	title:  reasonPhrases,
	reason: "RFC 9112, section 4: a client should ignore them; net/http writes its own",
	lines:  []string{`client: reason: (Fine → OK|Odd → status code 299)`},
}, {
	title:  accelFields,
	reason: "they are instructions for nginx",
	lines:  []string{`client: field x-accel-buffering: none → no`},
}, {
	title:  proxyRedirect,
	reason: "an application that gets the client's Host makes no such links; WithModifyResponse can rewrite them",
	lines:  []string{`client: field location: http://server\.example\.com:PORT/.* → http://127\.0\.0\.1:[0-9]+/.*`},
}, {
	title:  oldUpstreams,
	reason: "as with proxy_http_version 1.1, nginx's own default since 1.29.7",
	lines:  []string{`upstream 2: request line: .* HTTP/1\.0 → .* HTTP/1\.1`},
}, {
	title:  everyRoute,
	reason: "a Proxy takes upgrades on every route; WithUpgrades lists the protocols",
	lines:  []string{`upstream 2: field upgrade: none → websocket`, `upstream 2: field connection: close → upgrade`},
}, {
	title:  trustedList,
	reason: "each hop adds its peer; nginx has replaced that address by then",
	lines:  []string{`upstream: field x-forwarded-for: (.*), [0-9.]+ → (.*), 127\.0\.0\.1`},
}, {
	title:  untrustedList,
	reason: "such a list is only a claim",
	lines:  []string{`upstream: field x-forwarded-for: 192\.0\.2\.1, 127\.0\.0\.2 → 127\.0\.0\.2`},
}, {
	title:  noServerLeft,
	reason: "the condition is temporary",
	lines:  []string{`servers: 1 2 502 → 1 2 503`},
}, {
	title:  allDown,
	reason: "one of them may be up again",
	lines:  []string{`upstream( 2)? requests: 1 → 2`},
}, {
	title:  retryStatus,
	reason: "one path that responds with 503 must not take its server from other clients",
	lines:  []string{`upstream requests: [01] → [1-6]`},
}, {
	title:  halfClose,
	reason: "bytes under way are not lost; WithCloseTimeout limits it",
	lines:  []string{`(client|upstream): end: "", EOF → "last words", EOF`},
}, {
	title:  resets,
	reason: "an abrupt end must not look like an orderly one",
	lines:  []string{`(client|upstream): end: "", EOF → "", RST`},
}, {
	title:  idleTunnels,
	reason: "a Close frame tells the client why, and that it is not a failure",
	lines:  []string{`(client|upstream): end: "", EOF → Close 1001 "idle for too long", EOF`},
}}
