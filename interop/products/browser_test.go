package products_test

import (
	"context"
	"errors"
	"testing"

	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/interop/internal/lab"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// startBrowser runs Chromium until the test ends. It finds dev.example on this
// machine.
func startBrowser(t *testing.T) context.Context {
	t.Helper()
	flags := []chromedp.ExecAllocatorOption{
		chromedp.ExecPath(testkit.Program(t, "chromium")),
		chromedp.Flag("host-resolver-rules", "MAP dev.example "+lab.Loopback),
	}
	for _, name := range []string{
		"headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking",
		"disable-component-update", "disable-sync", "disable-breakpad", "disable-dev-shm-usage",
	} {
		flags = append(flags, chromedp.Flag(name, true))
	}
	allocator, release := chromedp.NewExecAllocator(context.Background(), flags...)
	browser, cancel := chromedp.NewContext(allocator)
	t.Cleanup(func() {
		assert.NoError(t, chromedp.Cancel(browser))
		cancel()
		release()
	})
	require.NoError(t, chromedp.Do(browser), "chromium does not start")
	return browser
}

// A tab shows a page.
type tab struct{ context.Context }

// open shows url in a tab until the test ends.
func open(t *testing.T, browser context.Context, url string) tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(browser)
	t.Cleanup(cancel)
	require.NoError(t, chromedp.Do(ctx)) // the tab ends with the context that opens it
	page := tab{ctx}
	ctx, cancel = page.timeout()
	defer cancel()
	require.NoError(t, chromedp.Do(ctx, chromedp.Navigate(url)))
	return page
}

func (page tab) timeout() (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(page, 3*testkit.Patience, errors.New("the browser takes too long"))
}

// value returns the string that an expression in the page has, or its error.
func (page tab) value(expression string) string {
	ctx, cancel := page.timeout()
	defer cancel()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[string]("String("+expression+")"))
	if err != nil {
		return err.Error() // while the page loads
	}
	return value
}

// await waits until an expression in the page has a value.
func (page tab) await(t *testing.T, expression, want string) {
	t.Helper()
	var got string
	defer func() {
		if got != want {
			t.Logf("%s is %q, want %q", expression, got, want)
		}
	}()
	testkit.Eventually(t, func() bool {
		got = page.value(expression)
		return got == want
	}, "the page has not changed")
}
