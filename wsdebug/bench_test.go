package wsdebug_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/wsdebug"
)

// Besides Stats, the page visits each tunnel once. Compare it with a scrape. With
// WSPROXY_STRESS=full there are 100,000 tunnels, else 1,000.
func BenchmarkThePage(b *testing.B) {
	n := testkit.Scale(1000, 100_000)
	p := testkit.OpenIdle(b, n, func(i int, r *http.Request) { r.URL.Path = fmt.Sprintf("/chat/%d", i) })
	bench := func(name string, h http.Handler, query string) {
		b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/"+query, nil))
				if w.Code != http.StatusOK {
					b.Fatal(w.Body)
				}
			}
		})
	}
	bench("scrape", wsdebug.Metrics(p, nil), "")
	page := wsdebug.Handler(p, nil)
	for _, query := range []string{"?", "?sort=path", "?sort=-client_bytes", "?n=0", "?n=1000", "?path=/chat/77", "?format=json"} {
		bench(query, page, query)
	}
}
