package headers_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// numbered returns n bytes of numbered copies of format, which has one %x.
func numbered(format string, n int) string {
	var b strings.Builder
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, format, 0x10000+i)
	}
	return b.String()
}

func repeated(s string, n int) string { return strings.Repeat(s, n/len(s)) }

// chunkedPost is a request with trailers that a client announces.
func chunkedPost(lines ...string) string {
	return "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n" + strings.Join(lines, "\r\n") + "\r\n\r\n2\r\nup\r\n0\r\nX10000: 1\r\n\r\n"
}

// hostileHeaders have about n bytes each, in a form that careless code would
// process in quadratic time.
var hostileHeaders = map[string]func(n int) string{
	"trailers and Connection's commas": func(n int) string {
		return chunkedPost("Trailer: "+numbered("x%x,", n/2), "Connection: close"+repeated(",", n/2))
	},
	"trailers and Connection's options": func(n int) string {
		return chunkedPost("Trailer: "+numbered("x%x,", n/2), "Connection: "+numbered("y%x,", n/2))
	},
	"trailers and fields": func(n int) string {
		return chunkedPost("Trailer: "+numbered("x%x,", n/2), numbered("y%x: 1\r\n", n/2)+"Z: 1")
	},
	"trailers in many lines": func(n int) string { return chunkedPost(numbered("Trailer: x%x\r\n", n) + "Z: 1") },
	"Connection's options and fields": func(n int) string {
		return testkit.PlainGet("/", "Connection: "+numbered("x%x,", n/2), numbered("x%x: 1\r\n", n/2)+"Z: 1")
	},
	"Connection's options and fields of an upgrade": func(n int) string {
		return testkit.UpgradeGet("/", "Connection: "+numbered("x%x,", n/2), numbered("x%x: 1\r\n", n/2)+"Z: 1")
	},
	"Connection in many lines":              func(n int) string { return testkit.UpgradeGet("/", numbered("Connection: x%x\r\n", n)+"Z: 1") },
	"fields":                                func(n int) string { return testkit.UpgradeGet("/", numbered("x%x: 1\r\n", n)+"Z: 1") },
	"one field in many lines":               func(n int) string { return testkit.UpgradeGet("/", repeated("X: 1\r\n", n)+"Z: 1") },
	"aliases of fields that the proxy sets": func(n int) string { return testkit.PlainGet("/", numbered("X_Forwarded.%x: 1\r\n", n)+"Z: 1") },
	"Upgrade's protocols": func(n int) string {
		return testkit.PlainGet("/", "Connection: upgrade", "Upgrade: "+numbered("x%x,", n))
	},
	"Upgrade's protocols and websocket": func(n int) string { return testkit.UpgradeGet("/", "Upgrade: "+numbered("x%x,", n)+"h2c") },
	"versions": func(n int) string {
		return testkit.UpgradeGet("/", numbered("Sec-WebSocket-Version: %x\r\n", n)+"Z: 1")
	},
	"a key": func(n int) string { return testkit.UpgradeGet("/", "Sec-WebSocket-Key: "+repeated("k", n)) },
	"trusted proxies in X-Forwarded-For": func(n int) string {
		return testkit.UpgradeGet("/", "X-Forwarded-For: 192.0.2.1"+repeated(", 10.0.0.7", n))
	},
	"X-Forwarded-For in many lines": func(n int) string {
		return testkit.PlainGet("/", repeated("X-Forwarded-For: ,,10.0.0.7\r\n", n)+"Z: 1")
	},
	"commas in X-Forwarded-For":      func(n int) string { return testkit.PlainGet("/", "X-Forwarded-For: "+repeated(",", n)+"x") },
	"one address of X-Forwarded-For": func(n int) string { return testkit.PlainGet("/", "X-Forwarded-For: "+repeated("1:", n)) },
	"X-Forwarded-Proto and -Host": func(n int) string {
		return testkit.PlainGet("/", "X-Forwarded-Proto: "+repeated("a,", n/2), "X-Forwarded-Host: "+repeated("b,", n/2))
	},
	"quotes in Forwarded":     func(n int) string { return testkit.PlainGet("/", "Forwarded: "+repeated(`for="\"\\";`, n)) },
	"Forwarded in many lines": func(n int) string { return testkit.PlainGet("/", repeated("Forwarded: for=\"\r\n", n)+"Z: 1") },
	"an origin":               func(n int) string { return testkit.UpgradeGet("/", "Origin: https://"+repeated("a.", n)+"example") },
	"origins":                 func(n int) string { return testkit.UpgradeGet("/", numbered("Origin: https://a%x\r\n", n)+"Z: 1") },
	"segments of a path":      func(n int) string { return testkit.UpgradeGet("/" + repeated("..a/;./%5c%2f", n)) },
	"parameters of a path":    func(n int) string { return testkit.PlainGet("/" + repeated(";..", n)) },
	"a query":                 func(n int) string { return testkit.PlainGet("/?" + repeated("&a=%zz;", n)) },
}

// Each name of a Trailer was once compared with each option of Connection,
// twice: 64 kB cost two seconds, and a megabyte ten minutes.
func TestTheCostOfAHostileHeaderIsLinearInItsLength(t *testing.T) {
	sizes := []int{60 << 10, 240 << 10, 960 << 10}
	if testkit.RaceEnabled() || !testkit.FullStress() {
		sizes = sizes[:2]
	}
	upstream := serveLargeHeaders(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }))
	prefixes, origins := []string{"127.0.0.1", "10.0.0.0/8"}, []string{"https://a.example"}
	for i := range 10 {
		prefixes = append(prefixes, fmt.Sprintf("192.168.%d.0/24", i))
		origins = append(origins, fmt.Sprintf("*.example%d.com", i))
	}
	p := testkit.NewProxy(t, "http://"+upstream, wsproxy.WithTrustedProxies(prefixes...), wsproxy.WithOrigins(origins...),
		wsproxy.WithForwarded(), wsproxy.WithHeader("X-Own", "1"), wsproxy.WithHeader("X-Unset", ""))
	addr := serveLargeHeaders(t, p)
	for name, request := range hostileHeaders {
		t.Run(name, func(t *testing.T) {
			var costs []time.Duration
			for i, size := range sizes {
				text := request(size)
				cost := costOf(t, addr, text)
				if i > 0 {
					// Quadratic time over two megabytes would be minutes. The
					// margin is for the garbage collector.
					most := 10*costs[i-1] + 50*time.Millisecond
					for tries := 0; cost > most && tries < 5; tries++ {
						cost = min(cost, costOf(t, addr, text))
					}
					require.LessOrEqual(t, cost, most, "%d bytes, four times as many as before: %v", len(text), costs)
				}
				costs = append(costs, cost)
			}
		})
	}
}

// serveLargeHeaders returns the address of a server of h that takes 2 MiB of
// header in any number of fields, which Go limits to 500 from 1.27 on.
func serveLargeHeaders(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.MaxHeaderBytes = 2 << 20
	if count := reflect.ValueOf(s.Config).Elem().FieldByName("MaxHeaderValueCount"); count.IsValid() {
		count.SetInt(1 << 30)
	}
	s.Start()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// costOf returns the least processor time that a request and its response took,
// which other processes do not lengthen.
func costOf(t *testing.T, addr, request string) time.Duration {
	t.Helper()
	var took []time.Duration
	for range 3 {
		c := testkit.Dial(t, addr)
		c.SetDeadline(time.Now().Add(10 * testkit.Patience))
		before := processorTime()
		go io.WriteString(c, request)
		res := c.Response(t)
		took = append(took, processorTime()-before)
		assert.NotEqual(t, http.StatusRequestHeaderFieldsTooLarge, res.StatusCode)
		c.Close()
	}
	return slices.Min(took)
}
