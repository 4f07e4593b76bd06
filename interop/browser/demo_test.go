package browser_test

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/interop/internal/lab"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// build builds cmd/wsproxy.
func build(t *testing.T) (program string) {
	t.Helper()
	program = filepath.Join(t.TempDir(), "wsproxy")
	cmd := exec.Command(testkit.Program(t, "go"), "build", "-o", program, "./cmd/wsproxy")
	cmd.Dir = filepath.Join("..", "..")
	said, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", said)
	return program
}

// run runs the command with its demo and returns the process and the URL of
// the page.
func run(t *testing.T, program string, flags ...string) (process *os.Process, url string) {
	t.Helper()
	ours, theirs, err := os.Pipe()
	require.NoError(t, err)
	t.Cleanup(func() { ours.Close() })
	cmd := exec.Command(program, append([]string{"-listen", "127.0.0.1:0"}, flags...)...)
	cmd.Stdout = theirs
	lab.Start(t, cmd)
	theirs.Close()
	line, err := bufio.NewReader(ours).ReadString('\n')
	require.NoError(t, err)
	fields := strings.Fields(line) // "wsproxy: URL -> demo upstream"
	require.Len(t, fields, 5, line)
	return cmd.Process, fields[1]
}

// selfSigned returns flags for an untrusted certificate, httptest's.
func selfSigned(t *testing.T) []string {
	t.Helper()
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.StartTLS()
	defer s.Close()
	pair := s.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	require.NoError(t, err)
	return []string{
		"-tls-cert", writePEM(t, "CERTIFICATE", pair.Certificate[0]),
		"-tls-key", writePEM(t, "PRIVATE KEY", key),
	}
}

func writePEM(t *testing.T, kind string, der []byte) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "pem")
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	return file
}

func testDemo(t *testing.T, browser context.Context, program string, flags ...string) {
	process, url := run(t, program, flags...)
	page := open(t, browser, url)

	proto := "http"
	if len(flags) > 0 {
		proto = "https"
	}
	page.text(t, "#state", "connected")
	page.text(t, "#fields", "X-Forwarded-Proto\t"+proto+"\n")
	page.text(t, "#last", " ms")
	page.text(t, "#rows", "/echo")
	page.text(t, "#fields tr.ours", "Host") // the first of those that the proxy sets
	page.text(t, "footer", "name it: "+program+" http://localhost:3000. All flags: "+program+" -h.")

	page.do(t, chromedp.SetValue("#message", "grüße"), chromedp.Click("#send"))
	assert.Contains(t, page.text(t, "#log li", "came back after"), "grüße")

	page.do(t, chromedp.Click("#toggle"))
	page.text(t, "#close", "Closed with 1000")
	page.do(t, chromedp.Click("#toggle"))
	page.text(t, "#state", "connected")

	require.NoError(t, process.Signal(syscall.SIGTERM))
	page.text(t, "#close", "Closed with 1001 – going away, reason “shutting down”, clean.")
}

// testDemoPlot checks that each echo of a probe adds a dot.
func testDemoPlot(t *testing.T, browser context.Context, program string) {
	_, url := run(t, program)
	page := open(t, browser, url)
	page.text(t, "#last", " ms")

	got := call[struct {
		Dots    []int `json:"dots"` // after each of five echoes
		Points  int   `json:"points"`
		Inside  int   `json:"inside"`
		Ordered bool  `json:"ordered"`
	}](t, page, `new Promise(resolve => {
		const plot = document.getElementById("plot"), counts = [];
		socket.addEventListener("message", () => {
			const dots = [...plot.querySelectorAll("circle.dot")].map(dot => dot.getBoundingClientRect());
			if (counts.push(dots.length) < 5) return;
			const box = plot.getBoundingClientRect();
			resolve({
				dots: counts,
				points: plot.querySelector("path.line").getAttribute("d").match(/[ML]/g).length,
				inside: dots.filter(dot => dot.left >= box.left && dot.right <= box.right && dot.top >= box.top && dot.bottom <= box.bottom).length,
				ordered: dots.every((dot, i) => !i || dot.left > dots[i - 1].left),
			});
		});
	})`)
	first := got.Dots[0]
	assert.Positive(t, first)
	assert.Equal(t, []int{first, first + 1, first + 2, first + 3, first + 4}, got.Dots[:5])
	assert.Equal(t, first+4, got.Points, "of the line through the dots")
	assert.Equal(t, first+4, got.Inside, "dots inside of the plot")
	assert.True(t, got.Ordered, "the newest is on the right")
}

// testDemoColours checks that the page follows the browser's light or dark
// setting and is readable.
func testDemoColours(t *testing.T, browser context.Context, program string) {
	_, url := run(t, program)
	page := open(t, browser, url)
	page.text(t, "#last", " ms")
	page.text(t, "#rows", "/echo")

	type look struct {
		Background float64 `json:"background"` // from 0, black, to 1, white
		Contrast   float64 `json:"contrast"`   // of the text, as defined by WCAG 2
	}
	looks := func(scheme string) map[string]look {
		page.do(t, chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
			_, err := cdp.Call(ctx, tab, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
				Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
			})
			return err
		}))
		return call[map[string]look](t, page, `(() => {
			const luminance = colour => {
				const [r, g, b] = colour.match(/[\d.]+/g).map(c => c / 255).map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
				return .2126 * r + .7152 * g + .0722 * b;
			};
			const look = selector => {
				const element = document.querySelector(selector), text = getComputedStyle(element);
				let behind = element;
				while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
				const background = luminance(getComputedStyle(behind).backgroundColor);
				const front = luminance(element.closest("svg") ? text.fill : text.color);
				return {background, contrast: (Math.max(front, background) + .05) / (Math.min(front, background) + .05)};
			};
			const selectors = ["body", ".soft", ".card", "#state", "#toggle", "#send", "#message", "#log", "#plot text", "#plot .dot", "#rows td", "#fields th", "#fields td", ".key"];
			return Object.fromEntries(selectors.map(selector => [selector, look(selector)]));
		})()`)
	}
	light, dark := looks("light"), looks("dark")
	for selector, inLight := range light {
		assert.GreaterOrEqual(t, inLight.Contrast, 4.5, "%s in light", selector)
		assert.GreaterOrEqual(t, dark[selector].Contrast, 4.5, "%s in dark", selector)
		if selector != "#send" { // contrasts with both
			assert.Greater(t, inLight.Background, .7, "%s in light", selector)
			assert.Less(t, dark[selector].Background, .1, "%s in dark", selector)
		}
	}
}

// testDemoGone has the server die. The page asked for its counters each second
// for ever, and the browser logged an error for each.
func testDemoGone(t *testing.T, browser context.Context, program string) {
	process, url := run(t, program)
	page := open(t, browser, url)
	page.text(t, "#rows", "/echo")
	require.NoError(t, process.Kill())
	page.text(t, "#close", "Closed with 1006")
	page.text(t, "#more", "Reconnect to ask again.")

	// The page asks each second, so within two and a half it would ask again.
	// After the click one request may fail before the socket does.
	got := call[struct {
		Silent    int  `json:"silent"`
		Reconnect int  `json:"reconnect"`
		Polling   bool `json:"polling"`
	}](t, page, `(async () => {
		const real = fetch, passes = () => new Promise(resolve => setTimeout(resolve, 2_500));
		let n = 0;
		fetch = (...request) => (n++, real(...request));
		await passes();
		const silent = n;
		document.getElementById("toggle").click();
		await passes();
		return {silent, reconnect: n - silent, polling};
	})()`)
	assert.Zero(t, got.Silent, "requests without being asked")
	assert.Positive(t, got.Reconnect, "requests after Reconnect")
	assert.False(t, got.Polling, "the page still asks for counters")

	process, _ = run(t, program, "-listen", strings.TrimPrefix(url, "http://"))
	page.do(t, chromedp.Click("#toggle"))
	page.text(t, "#state", "connected")
	page.text(t, "#rows", "/echo")
	testkit.Eventually(t, func() bool { // the rows may still be those from before
		return call[bool](t, page, "polling && document.getElementById('more').hidden")
	}, "the page does not ask for counters again")
	require.NoError(t, process.Signal(syscall.SIGTERM))
	page.text(t, "#close", "Closed with 1001")
}

// broken returns the words of the page, letters and digits of no more than 24,
// that a line break divides.
const broken = `(() => {
	const words = [], texts = document.createTreeWalker(document.querySelector("body"), NodeFilter.SHOW_TEXT);
	for (let text; text = texts.nextNode();) {
		if (text.parentElement.closest("script, style, thead, svg")) continue;
		for (const word of text.data.matchAll(/[\p{L}\p{N}_]+/gu)) {
			const range = document.createRange();
			range.setStart(text, word.index);
			range.setEnd(text, word.index + word[0].length);
			const lines = new Set([...range.getClientRects()].map(r => r.top));
			if (word[0].length <= 24 && lines.size > 1) words.push(word[0]);
		}
	}
	return words;
})()`

// testDemoPhone checks the page on a phone that is 360 pixels wide.
func testDemoPhone(t *testing.T, browser context.Context, program string) {
	_, url := run(t, program, "-header", "X-Long: "+strings.Repeat("x", 500))
	page := open(t, browser, url)
	page.do(t, chromedp.EmulateViewport(360, 740, chromedp.EmulateMobile, chromedp.EmulateTouch))
	fits := func(when string) {
		got := call[struct {
			Page   int      `json:"page"`
			Window int      `json:"window"`
			Card   float64  `json:"card"`
			Aside  int      `json:"aside"`
			Beyond []string `json:"beyond"`
		}](t, page, `({
			page: document.documentElement.scrollWidth,
			window: innerWidth,
			card: Math.min(...[...document.querySelectorAll(".card")].map(e => e.getBoundingClientRect().width)),
			aside: document.getElementById("log").scrollWidth - document.getElementById("log").clientWidth,
			beyond: [...document.querySelectorAll("body *:not(thead, thead *)")].filter(e => {
				const r = e.getBoundingClientRect();
				return r.left < 0 || r.right > (e.parentElement.closest(".card")?.getBoundingClientRect().right ?? 360);
			}).map(e => e.outerHTML.slice(0, 60)),
		})`)
		assert.LessOrEqual(t, got.Page, 360, when)
		assert.Equal(t, 360, got.Window, "%s: the browser zooms out", when)
		assert.Empty(t, got.Beyond, when)
		assert.Greater(t, got.Card, 320., "%s: cards are side by side", when)
		assert.Zero(t, got.Aside, "%s: messages that are wider than the page", when)
		assert.Empty(t, call[[]string](t, page, broken), "%s: words that a line break divides", when)
	}
	page.text(t, "#last", " ms")
	page.text(t, "#rows", "/echo")
	page.text(t, "#fields", "X-Long")
	page.do(t, chromedp.SetValue("#message", strings.Repeat("x", 500)), chromedp.Click("#send"))
	page.text(t, "#log li", "came back after")
	fits("connected")
	page.do(t, chromedp.Click("#toggle"))
	page.text(t, "#close", "Closed with 1000")
	fits("closed")
	assert.GreaterOrEqual(t, call[float64](t, page, `Math.min(...[...document.querySelectorAll("button, input")].map(e => e.getBoundingClientRect().height))`),
		44., "pixels for a finger")
}
