package wsproxy

import (
	"bufio"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"example.com/wsproxy/internal/syntax"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestConnectionUpgradeEqualsTheMapOfTheNginxRecipe(t *testing.T) {
	for httpUpgrade, want := range map[string]string{
		"":          "close",
		"websocket": "upgrade",
		"h2c":       "upgrade",
		" ":         "upgrade",
		"0":         "upgrade",
	} {
		assert.Equal(t, want, ConnectionUpgrade(httpUpgrade), "for Upgrade: %q", httpUpgrade)
	}
}

func TestHopByHopFieldsAndFieldsNamedInConnectionAreRemoved(t *testing.T) {
	for _, test := range []struct {
		name     string
		in, want http.Header
	}{
		{"no fields", http.Header{}, http.Header{}},
		{"end-to-end fields stay",
			http.Header{"Cookie": {"a=1", "b=2"}, "Sec-Websocket-Extensions": {"permessage-deflate"}, "X-Te": {"1"}, "Upgrade-Insecure-Requests": {"1"}},
			http.Header{"Cookie": {"a=1", "b=2"}, "Sec-Websocket-Extensions": {"permessage-deflate"}, "X-Te": {"1"}, "Upgrade-Insecure-Requests": {"1"}}},
		{"every hop-by-hop field is removed without being named",
			http.Header{"Connection": {"close"}, "Http2-Settings": {"AAMAAABk"}, "Keep-Alive": {"timeout=5"},
				"Proxy-Authenticate": {"Basic"}, "Proxy-Authorization": {"Basic eA=="}, "Proxy-Connection": {"keep-alive"},
				"Te": {"trailers"}, "Trailer": {"X-T"}, "Transfer-Encoding": {"chunked"}, "Upgrade": {"websocket", "h2c"}},
			http.Header{}},
		{"all lines of a field named in Connection are removed",
			http.Header{"Connection": {"upgrade, X-Hop"}, "X-Hop": {"1", "2"}, "X-Kept": {"1"}},
			http.Header{"X-Kept": {"1"}}},
		{"names on every line of Connection count",
			http.Header{"Connection": {"upgrade", "X-One", "X-Two"}, "X-One": {"1"}, "X-Two": {"2"}},
			http.Header{}},
		{"spacing, tabs, case and empty elements do not matter",
			http.Header{"Connection": {" , x-one\t,,\tX-TWO ,", "", ",x-tHREE"}, "X-One": {"1"}, "X-Two": {"2"}, "X-Three": {"3"}},
			http.Header{}},
		{"names are compared as a whole",
			http.Header{"Connection": {"X-On, X-One-Two, X One"}, "X-One": {"1"}},
			http.Header{"X-One": {"1"}}},
		{"invalid field names are ignored",
			http.Header{"Connection": {`"X-One", close;x, é`}, "X-One": {"1"}},
			http.Header{"X-One": {"1"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			removeHopByHop(test.in)
			assert.Equal(t, test.want, test.in)
		})
	}
}

func TestTheClientsFirstAllowedProtocolIsRequested(t *testing.T) {
	websocket := []string{"websocket"}
	both := []string{"spdy/3.1", "websocket"}
	upgrade := []string{"Upgrade"}
	for _, test := range []struct {
		name       string
		upgrade    []string
		connection []string
		allowed    []string
		want       string
	}{
		{"websocket", []string{"websocket"}, upgrade, websocket, "websocket"},
		{"in any case, as the list spells it", []string{"WebSocket"}, []string{"uPGRADE"}, websocket, "websocket"},
		{"with spaces", []string{" \twebsocket "}, []string{"keep-alive ,\tUpgrade "}, websocket, "websocket"},
		{"beside h2c on one line", []string{"websocket, h2c"}, upgrade, websocket, "websocket"},
		{"after h2c on one line", []string{"h2c, websocket"}, upgrade, websocket, "websocket"},
		{"beside h2c on two lines", []string{"websocket", "h2c"}, upgrade, websocket, "websocket"},
		{"after h2c on two lines", []string{"h2c", "websocket"}, upgrade, websocket, "websocket"},
		{"upgrade on a second Connection line", []string{"websocket"}, []string{"keep-alive", "upgrade"}, websocket, "websocket"},
		{"spdy if it is allowed", []string{"SPDY/3.1"}, upgrade, both, "spdy/3.1"},
		{"the client's order counts, not the list's", []string{"websocket, spdy/3.1"}, upgrade, both, "websocket"},

		{"h2c", []string{"h2c"}, []string{"Upgrade, HTTP2-Settings"}, websocket, ""},
		{"spdy if it is not allowed", []string{"spdy/3.1"}, upgrade, websocket, ""},
		{"another version of an allowed one", []string{"spdy/3"}, upgrade, both, ""},
		{"a version if none is allowed", []string{"websocket/13"}, upgrade, websocket, ""},
		{"a letter that is an s to Unicode alone", []string{"web\u017focket"}, upgrade, websocket, ""},
		{"a letter that is a k to Unicode alone", []string{"websoc\u212aet"}, upgrade, websocket, ""},
		{"a name that only begins the same", []string{"websockets"}, upgrade, websocket, ""},
		{"no Connection", []string{"websocket"}, nil, websocket, ""},
		{"Connection without upgrade", []string{"websocket"}, []string{"keep-alive, close"}, websocket, ""},
		{"a Connection token that only begins with upgrade", []string{"websocket"}, []string{"upgradee"}, websocket, ""},
		{"a Connection token that only ends with upgrade", []string{"websocket"}, []string{"x-upgrade"}, websocket, ""},
		{"two words in one Connection token", []string{"websocket"}, []string{"keep-alive upgrade"}, websocket, ""},
		{"no Upgrade", nil, upgrade, websocket, ""},
		{"an empty Upgrade", []string{""}, upgrade, websocket, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := http.Header{}
			if test.upgrade != nil {
				h["Upgrade"] = test.upgrade
			}
			if test.connection != nil {
				h["Connection"] = test.connection
			}
			assert.Equal(t, test.want, upgradeToken(h, test.allowed))
		})
	}
}

func TestUpgradeFieldsAreRemovedFromAPlainRequest(t *testing.T) {
	for _, test := range []struct {
		name     string
		in, want http.Header
	}{
		{"h2c", http.Header{"Upgrade": {"h2c"}, "Http2-Settings": {"AAMAAABk"}, "Connection": {"Upgrade, HTTP2-Settings"}, "X-A": {"1"}},
			http.Header{"X-A": {"1"}}},
		{"other Connection tokens stay", http.Header{"Upgrade": {"h2c", "tls/1.0"}, "Connection": {"keep-alive, UPGRADE", "x-hop"}, "X-Hop": {"1"}},
			http.Header{"Connection": {"keep-alive, x-hop"}, "X-Hop": {"1"}}},
		{"settings alone", http.Header{"Http2-Settings": {"AAMAAABk"}, "Connection": {"http2-settings"}}, http.Header{}},
		{"upgrade without Connection", http.Header{"Upgrade": {"websocket"}}, http.Header{}},
		{"no upgrade", http.Header{"Connection": {"keep-alive"}, "X-A": {"1"}}, http.Header{"Connection": {"keep-alive"}, "X-A": {"1"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := &http.Request{Method: http.MethodGet, Host: "a.example", Header: test.in.Clone()}
			plain := withoutUpgrade(r)
			assert.Equal(t, test.want, plain.Header)
			assert.Equal(t, test.in, r.Header, "the request given is not changed")
			plain.Header.Set("X-Probe", "1")
			if test.in["Upgrade"] != nil || test.in["Http2-Settings"] != nil {
				assert.Equal(t, test.in, r.Header, "the copy shares no map with the request given")
			}
			assert.Equal(t, "a.example", plain.Host, "everything else is the same")
		})
	}
}

// For any client header, the upstream gets no hop-by-hop fields, exactly the
// proxy's values for the names that the proxy sets, and no aliases of those
// names.
func FuzzHeaderPolicy(f *testing.F) {
	for _, header := range []string{
		"",
		"Cookie: a=1\r\nX-Kept: 1",
		"Connection: Upgrade, X-Hop\r\nUpgrade: websocket\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nTE: trailers\r\nTrailer: X",
		"connection: x-forwarded-for\r\nConnection: X-Real-IP , X-Api-Key,\tForwarded\r\nX-Forwarded-For: 203.0.113.9",
		"X-Real-IP: 203.0.113.9\r\nx_real_ip: 1\r\nX.Real.IP: 2\r\nX-Real_IP: 3",
		"X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-For: 10.0.0.2, unknown\r\nX_Forwarded_For: 1\r\nX-Forwarded-Port: 1",
		"X-Forwarded-Proto: https\r\nX-Forwarded-Host: a\r\nX.Forwarded.Proto: x",
		"Forwarded: for=203.0.113.9\r\nForwarded: for=\"\r\nForwarded: for=\"a\\\"",
		"Sec-WebSocket-Key: x\r\nSec_WebSocket_Key: y\r\nX-Api-Key: 1\r\nX_api_key: 2\r\nX-Gone: 3\r\nX.Gone: 4",
		"Proxy-Connection: x\r\nProxy-Authorization: x\r\nHTTP2-Settings: x\r\nTransfer-Encoding: chunked",
	} {
		for mode := range byte(6) {
			f.Add(header, mode)
		}
	}
	edits := []Option{WithHeader("X-Api-Key", "secret"), WithHeader("X-Gone", "")}
	f.Fuzz(func(t *testing.T, header string, mode byte) {
		in, err := http.ReadRequest(bufio.NewReader(strings.NewReader("GET / HTTP/1.1\r\nHost: chat.example:80\r\n" + header + "\r\n\r\n")))
		if err != nil || in.Host != "chat.example:80" || !served(in.Header) {
			return
		}
		in.RemoteAddr = "192.0.2.7:1234"
		opts := slices.Clone(edits)
		trusting, claims := mode%3 == 1, mode%3 != 2 // claims: the client's lists are extended
		switch mode % 3 {
		case 1:
			opts = append(opts, WithTrustedProxies("192.0.2.0/24"))
		case 2:
			opts = append(opts, WithTrustedProxies("198.51.100.0/24"))
		}
		if mode%2 == 1 {
			opts = append(opts, WithForwarded())
		}
		before := in.Header.Clone()
		out := outbound(policyOf(t, opts...), in)
		require.Equal(t, before, in.Header, "the client's request is not changed")

		list := []string{}
		for _, line := range in.Header["X-Forwarded-For"] {
			if claims && strings.TrimSpace(line) != "" {
				list = append(list, line)
			}
		}
		own := map[string][]string{
			"X-Forwarded-For": {strings.Join(append(list, "192.0.2.7"), ", ")},
			"X-Api-Key":       {"secret"},
			"X-Gone":          nil,
		}
		if !trusting {
			own["X-Real-Ip"] = []string{"192.0.2.7"}
			own["X-Forwarded-Proto"] = []string{"http"}
			own["X-Forwarded-Host"] = []string{"chat.example:80"}
		}
		for name, want := range own {
			require.Equal(t, want, out[name], "field %s", name)
		}
		for _, name := range []string{"X-Real-Ip", "X-Forwarded-Proto", "X-Forwarded-Host"} {
			require.Len(t, out[name], 1, "field %s", name)
		}
		if mode%2 == 1 {
			require.Len(t, out["Forwarded"], 1)
			value := out["Forwarded"][0]
			own := `for=192.0.2.7;host="chat.example:80";proto=http`
			require.True(t, value == own || strings.HasSuffix(value, ", "+own) && claims, "Forwarded: %s", value)
			require.Zero(t, openQuotes(strings.TrimSuffix(value, own)), "the proxy's hop is not within quotes: %s", value)
		} else if !trusting {
			require.Nil(t, out["Forwarded"])
		}

		named := map[string]bool{}
		for _, name := range strings.Split(strings.Join(in.Header["Connection"], ","), ",") {
			named[http.CanonicalHeaderKey(strings.Trim(name, " \t"))] = true
		}
		for name, values := range out {
			switch plainName := strings.NewReplacer("_", "-", ".", "-").Replace(strings.ToLower(name)); {
			case own[name] != nil, name == "X-Real-Ip", name == "Forwarded", strings.HasPrefix(name, "X-Forwarded-") && name == http.CanonicalHeaderKey(plainName):
				require.True(t, trusting || own[name] != nil || name == "Forwarded", "a field of an untrusted peer was forwarded: %s", name)
			case slices.Contains([]string{"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection",
				"te", "trailer", "transfer-encoding", "upgrade", "http2-settings"}, strings.ToLower(name)):
				t.Fatalf("a hop-by-hop field was forwarded: %s", name)
			case named[name]:
				t.Fatalf("a field named in Connection was forwarded: %s", name)
			case slices.Contains([]string{"x-real-ip", "x-api-key", "x-gone"}, plainName),
				strings.HasPrefix(plainName, "x-forwarded-"),
				strings.HasPrefix(plainName, "sec-websocket-") && strings.ContainsAny(name, "_."):
				t.Fatalf("an alias was forwarded: %s", name)
			default:
				require.Equal(t, in.Header[name], values, "field %s is end-to-end", name)
			}
		}
		for name, values := range in.Header {
			ours := strings.HasPrefix(name, "X") || strings.HasPrefix(name, "Sec") || name == "Forwarded"
			if !ours && !named[name] && !slices.Contains(hopByHop, name) {
				require.Equal(t, values, out[name], "field %s is end-to-end", name)
			}
		}
	})
}

// policyOf returns the header policy of a Proxy with opts.
func policyOf(t testing.TB, opts ...Option) *headerPolicy {
	t.Helper()
	c := defaultConfig()
	for _, opt := range opts {
		opt.apply(&c)
	}
	require.NoError(t, c.validate())
	policy := c.headerPolicy()
	return &policy
}

// outbound returns the header that the policy makes for in.
func outbound(policy *headerPolicy, in *http.Request) http.Header {
	out := in.Header.Clone()
	removeHopByHop(out)
	policy.apply(out, in)
	return out
}

// served reports whether net/http's server accepts a header. ReadRequest checks
// less.
func served(h http.Header) bool {
	for name, values := range h {
		if !syntax.IsToken(name) || slices.ContainsFunc(values, func(value string) bool { return !syntax.IsFieldValue(value) }) {
			return false
		}
	}
	return true
}

// openQuotes returns the number of quoted strings that are open at the end of
// s.
func openQuotes(s string) int {
	closed := regexp.MustCompile(`"(?s:[^"\\]|\\.)*"`).ReplaceAllString(s, "")
	return strings.Count(closed, `"`)
}

// connectionOption reports whether a Connection field has an option.
func connectionOption(option string, h http.Header) bool {
	return regexp.MustCompile("(?i)(^|[,\n])[ \t]*" + option + "[ \t]*($|[,\n])").MatchString(strings.Join(h["Connection"], "\n"))
}
