package browser_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/wsdebug"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
)

// livePage serves the page of a proxy with n tunnels, and has it take two samples, so
// that it has rates and plots.
func livePage(t *testing.T, n int) (url string) {
	t.Helper()
	p := testkit.OpenIdle(t, n, func(i int, r *http.Request) {
		r.Host = "chat.example.com"
		r.URL.Path = []string{"/chat", "/rooms/engineering/threads/8842", "/" + string(make([]byte, 300))}[i%3]
		if i%3 == 1 {
			r.RemoteAddr = fmt.Sprintf("[2001:db8:1111:2222:3333:4444:5555:%x]:1", i)
		}
	})
	url = "http://" + testkit.Serve(t, wsdebug.HandlerOf([]wsdebug.Named{
		{Name: "/chat", Proxy: p}, {Name: "/feed", Proxy: testkit.NewProxy(t, "http://upstream")}}, wsdebug.WithClose())) + "/"
	res, err := http.Get(url)
	if assert.NoError(t, err) {
		res.Body.Close()
	}
	time.Sleep(1100 * time.Millisecond) // a sample at most each second
	return url
}

// testLivePage looks at the page on a desk and on a phone, in light and in dark.
func testLivePage(t *testing.T, browser context.Context, n int) {
	page := open(t, browser, livePage(t, n))
	url := call[string](t, page, "location.href")
	for _, width := range []int64{1280, 360} {
		for _, scheme := range []string{"light", "dark"} {
			how := fmt.Sprintf("%d tunnels, %d pixels, %s", n, width, scheme)
			rows := 200
			if width > 600 && scheme == "light" {
				rows = 1000
			}
			options := []chromedp.EmulateViewportOption{}
			if width < 600 {
				options = append(options, chromedp.EmulateMobile, chromedp.EmulateTouch)
			}
			page.do(t, chromedp.EmulateViewport(width, 800, options...),
				chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
					_, err := cdp.Call(ctx, tab, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
						Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
					})
					return err
				}), chromedp.Navigate(fmt.Sprintf("%s?n=%d", url, rows)))
			got := call[struct {
				Rows   int      `json:"rows"`
				Plots  int      `json:"plots"`
				Page   int      `json:"page"`
				Beyond []string `json:"beyond"`
				Dim    []string `json:"dim"`
				Small  []string `json:"small"`
				Back   float64  `json:"back"`
			}](t, page, livePageLook)
			assert.Equal(t, min(n, rows), got.Rows, how)
			assert.Equal(t, 3, got.Plots, how)
			assert.LessOrEqual(t, got.Page, int(width), "%s: the page scrolls to the side", how)
			assert.Empty(t, got.Beyond, "%s: outside of the window", how)
			assert.Empty(t, got.Dim, "%s: contrast below that of WCAG 2 AA", how)
			assert.Empty(t, got.Small, "%s: too small to touch", how)
			assert.Equal(t, scheme == "light", got.Back > .5, how)
		}
	}
	assert.Empty(t, call[[]string](t, page, livePageMistakes), "%d tunnels", n)
}

// livePageLook measures the page as it is drawn.
const livePageLook = `(() => {
	const luminance = colour => {
		const [r, g, b] = colour.match(/[\d.]+/g).map(c => c / 255).map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
		return .2126 * r + .7152 * g + .0722 * b;
	};
	const behind = e => {
		while (e && getComputedStyle(e).backgroundColor === "rgba(0, 0, 0, 0)") e = e.parentElement;
		return luminance(getComputedStyle(e ?? document.body).backgroundColor);
	};
	const contrast = (front, back) => (Math.max(front, back) + .05) / (Math.min(front, back) + .05);
	const name = e => e.outerHTML.slice(0, 80), dim = new Set();
	const rows = document.querySelectorAll(".tunnels tbody tr");
	const few = [...document.querySelectorAll("body *")].filter(e => !e.closest(".tunnels tbody tr:nth-child(n+10), option, datalist"));
	for (const e of few) {
		const style = getComputedStyle(e);
		if (e.matches("path")) {
			const back = behind(e.closest("figure"));
			if (style.opacity === "1" && contrast(luminance(style.color), back) < 3) dim.add(name(e));
		} else if ([...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) || e.matches("input")) {
			if (contrast(luminance(style.color), behind(e)) < 4.5) dim.add(name(e));
			if (e.matches("input") && contrast(luminance(getComputedStyle(e, "::placeholder").color), behind(e)) < 4.5) dim.add(name(e));
		}
	}
	return {
		rows: rows.length,
		plots: document.querySelectorAll("figure svg path").length ? document.querySelectorAll("figure svg").length : 0,
		page: document.documentElement.scrollWidth,
		beyond: few.filter(e => !e.closest(".scroll, svg") && e.getClientRects().length)
			.filter(e => e.getBoundingClientRect().left < 0 || e.getBoundingClientRect().right > innerWidth + .5).map(name),
		dim: [...dim],
		small: [...document.querySelectorAll(":is(nav, .do, .filters) a, button, input:not([type=hidden]), select")].slice(0, 50)
			.filter(e => e.getClientRects().length && e.getBoundingClientRect().height < 24).map(name),
		back: behind(document.body),
	};
})()`

// livePageMistakes lists what a reader of the screen, or of the console, would miss.
const livePageMistakes = `(() => {
	const all = s => [...document.querySelectorAll(s)], wrong = [];
	const check = (ok, what) => ok || wrong.push(what);
	check(document.styleSheets.length === 1 && getComputedStyle(document.body).margin === "0px", "the policy blocks the style sheet");
	check(all("h1").length === 1, "h1");
	let level = 0;
	for (const h of all("h1, h2, h3, h4")) {
		const n = +h.tagName[1];
		check(n <= level + 1, "a level is left out before " + h.innerText);
		level = n;
	}
	for (const f of all("input:not([type=hidden]), select")) check(f.labels.length === 1 && f.labels[0].innerText.trim(), "no label: " + f.name);
	for (const f of all("a, button")) check((f.getAttribute("aria-label") ?? f.textContent).trim(), "no name: " + f.outerHTML);
	for (const th of all("th")) check(th.scope, "no scope: " + th.innerText);
	for (const svg of all("svg")) check(svg.getAttribute("role") === "img" && svg.getAttribute("aria-label"), "no name for a plot");
	for (const id of all("[id]").map(e => e.id)) check(all("#" + CSS.escape(id)).length === 1, "twice: " + id);
	for (const e of all("[aria-labelledby]")) check(document.getElementById(e.getAttribute("aria-labelledby")), "nothing labels " + e.id);
	if (all(".tunnels").length) {
		check(all("[aria-sort]").length === 1 && all("[aria-sort]")[0].getAttribute("aria-sort") === "ascending", "aria-sort");
	}
	check(document.documentElement.lang === "en" && document.title, "lang and title");
	check(all("header, main, footer").length === 3, "landmarks");
	check(!all("script, [style], [onclick]").length, "script or style");
	return wrong;
})()`

// testLivePageStays has the page refresh, which keeps the place. A browser only scrolls
// to the fragment of its URL, and shows the same numbers for ever, if the URL to load
// has it too.
func testLivePageStays(t *testing.T, browser context.Context) {
	page := open(t, browser, livePage(t, 300)+"?refresh=2&sort=-path#tunnels")
	page.do(t, chromedp.EmulateViewport(1280, 800))
	now := func() string { return call[string](t, page, `document.querySelector(".now").innerText`) }
	first := now()
	assert.Positive(t, call[int](t, page, "scrollY"), "the fragment is in sight")
	call[any](t, page, "scrollTo(0, 2000)")
	for range 2 {
		page.awaits(t, fmt.Sprintf(`document.querySelector(".now").innerText !== %q && Math.abs(scrollY - 2000) < 100`, first))
		first = now()
	}
	assert.Equal(t, "descending", call[string](t, page, `document.querySelector("[aria-sort]").getAttribute("aria-sort")`))
}

// awaits waits until an expression is true. The page may be between two loads.
func (page *tab) awaits(t *testing.T, expression string) {
	t.Helper()
	testkit.Eventually(t, func() bool {
		ctx, cancel := page.timeout()
		defer cancel()
		found, err := chromedp.Run(ctx, chromedp.Evaluate[bool](expression))
		return err == nil && found
	}, "the page does not become: %s", expression)
}

// testLivePageCloses closes a tunnel with the keyboard alone. Browsers send
// Sec-Fetch-Site only to https and to this machine. For any other host, all that
// shows a POST to be the page's own is Origin, which is null if the page's
// Referrer-Policy is no-referrer (Fetch, "serializing a request origin").
func testLivePageCloses(t *testing.T, browser context.Context) {
	for _, host := range []string{"127.0.0.1", "admin.example"} {
		page := open(t, browser, strings.Replace(livePage(t, 3), "127.0.0.1", host, 1)+"?sort=-age")
		press := func(selector string) {
			call[any](t, page, `document.querySelector("`+selector+`").focus()`)
			assert.NotEqual(t, "none", call[string](t, page, `getComputedStyle(document.activeElement).outlineStyle`), "the focus is seen")
			page.do(t, chromedp.KeyEvent("\r"))
		}
		press("[aria-label='Close tunnel 1…']")
		page.text(t, "#h-ask", "Close tunnel 1?")
		press(".ask button")
		assert.Contains(t, page.text(t, "#said", "Tunnel 1"), "clos", host)
		assert.Contains(t, call[string](t, page, "location.search"), "sort=-age&closed=1")
	}
}
