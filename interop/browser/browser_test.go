// Package browser_test makes a real browser open WebSockets through wsproxy,
// from a test page and from the demo page of cmd/wsproxy.
package browser_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"example.com/wsproxy/internal/testkit"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// TestChromium is one test, so that all subtests share one browser.
func TestChromium(t *testing.T) {
	browser := start(t, testkit.Program(t, "chromium"))
	program := build(t)
	for _, scheme := range []string{"ws", "wss", "h2"} {
		t.Run(scheme, func(t *testing.T) {
			for _, c := range []struct {
				name string
				test func(t *testing.T, browser context.Context, scheme string)
			}{
				{"talks", testTalk},
				{"sees a drain as code 1001", testDrain},
				{"sees a dead upstream as a failure", testDeadUpstream},
				{"is refused for pages of other origins", testOrigin},
				{"opens two hundred sockets from one page", testTwoHundred},
			} {
				t.Run(c.name, func(t *testing.T) { c.test(t, browser, scheme) })
			}
		})
	}
	t.Run("shows the demo over ws", func(t *testing.T) { testDemo(t, browser, program) })
	t.Run("shows the demo over wss", func(t *testing.T) { testDemo(t, browser, program, selfSigned(t)...) })
	t.Run("draws each echo in the demo's plot", func(t *testing.T) { testDemoPlot(t, browser, program) })
	t.Run("shows the demo in light and in dark", func(t *testing.T) { testDemoColours(t, browser, program) })
	t.Run("asks the demo no more once its server is gone", func(t *testing.T) { testDemoGone(t, browser, program) })
	t.Run("shows the demo on a phone", func(t *testing.T) { testDemoPhone(t, browser, program) })
	for _, n := range []int{0, 3, 5000} {
		t.Run(fmt.Sprintf("shows the live page with %d tunnels", n), func(t *testing.T) { testLivePage(t, browser, n) })
	}
	t.Run("refreshes the live page and keeps the place", func(t *testing.T) { testLivePageStays(t, browser) })
	t.Run("closes a tunnel from the live page", func(t *testing.T) { testLivePageCloses(t, browser) })
	t.Run("opens a hundred sockets on the connection of their page over HTTP/2", func(t *testing.T) { testHTTP2(t, browser) })
}

// start runs a browser until the test ends.
func start(t *testing.T, program string) context.Context {
	t.Helper()
	return startWith(t, program, chromedp.Flag("disable-quic", true))
}

func startWith(t *testing.T, program string, more ...chromedp.ExecAllocatorOption) context.Context {
	t.Helper()
	flags := append(more, chromedp.ExecPath(program), chromedp.Flag("host-resolver-rules", "MAP *.example 127.0.0.1"))
	for _, name := range []string{
		"headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking",
		"disable-component-update", "disable-sync", "disable-breakpad", "disable-dev-shm-usage",
		"ignore-certificate-errors", // this browser visits only the tests' servers
	} {
		flags = append(flags, chromedp.Flag(name, true))
	}
	allocator, release := chromedp.NewExecAllocator(context.Background(), flags...) // its user-data-dir is new and empty
	browser, cancel := chromedp.NewContext(allocator)
	t.Cleanup(func() {
		assert.NoError(t, chromedp.Cancel(browser))
		cancel()
		release()
	})
	require.NoError(t, chromedp.Do(browser), "chromium does not start")
	return browser
}

// A tab shows a page. Its methods are for the test's goroutine.
type tab struct{ context.Context }

// open shows url in a tab until the test ends. The test fails if a script of
// the page fails.
func open(t *testing.T, browser context.Context, url string) *tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(browser)
	t.Cleanup(cancel)
	exceptions := make(chan string, 100)
	require.NoError(t, chromedp.Listen(ctx, func(event any) {
		if e, ok := event.(*runtime.EventExceptionThrown); ok {
			exceptions <- fmt.Sprintf("%s at line %d", e.ExceptionDetails.Text, e.ExceptionDetails.LineNumber+1)
		}
	}))
	t.Cleanup(func() {
		select {
		case e := <-exceptions:
			assert.Fail(t, "the page's script failed", e)
		default:
		}
	})
	page := &tab{ctx}
	page.do(t, chromedp.Navigate(url))
	return page
}

func (page *tab) timeout() (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(page, 3*testkit.Patience, errors.New("the browser takes too long"))
}

// do runs actions that must succeed.
func (page *tab) do(t *testing.T, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	ctx, cancel := page.timeout()
	defer cancel()
	require.NoError(t, chromedp.Do(ctx, steps...))
}

// call returns the value of an expression in the page. It awaits promises.
func call[T any](t *testing.T, page *tab, expression string) T {
	t.Helper()
	ctx, cancel := page.timeout()
	defer cancel()
	result, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	require.NoError(t, err, expression)
	return result
}

// text waits until the first element of a selector has a text that contains
// want, and returns the text.
func (page *tab) text(t *testing.T, selector, want string) (text string) {
	t.Helper()
	testkit.Eventually(t, func() bool {
		ctx, cancel := page.timeout()
		defer cancel()
		found, err := chromedp.Run(ctx, chromedp.Evaluate[string](`document.querySelector("`+selector+`")?.innerText ?? ""`))
		text = found
		return err == nil && strings.Contains(found, want)
	}, "%s does not become %q", selector, want)
	return text
}
