package wsdebug

import (
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// A link leads to the page that its query describes, whatever is in it.
func FuzzQuery(f *testing.F) {
	for _, s := range []string{"", "n=5&refresh=2", "path=%2Fa%26b%3D%23%20%2B&sort=-idle", "server=%FF%00&ip=::1%2F64", "older=1h", "n=1001",
		"path=%E2%80%AE&close=1", "a=b;c", "n=&path="} {
		f.Add(s)
	}
	names := append(append([]string{}, parameters...), actionParameters...)
	f.Fuzz(func(t *testing.T, raw string) {
		q, err := parseQuery(raw, names)
		if err != nil {
			assert.True(t, isText(err.Error()), "%q", err)
			return
		}
		link := q.link("here")
		if strings.ContainsAny(link, "<>\"' \n") || !strings.HasPrefix(link, "?") || !strings.HasSuffix(link, "#here") {
			t.Fatalf("%q makes %q", raw, link)
		}
		to, err := url.Parse(link)
		if err != nil {
			t.Fatal(err)
		}
		again, err := parseQuery(to.RawQuery, names)
		if err != nil {
			t.Fatalf("%q makes %q: %v", raw, link, err)
		}
		for _, name := range actionParameters {
			delete(q.values, name)
		}
		q.raw, again.raw = "", ""
		q.sort, again.sort = column{name: q.sort.name}, column{name: again.sort.name} // functions do not compare
		assert.Equal(t, q, again)
	})
}

// isText reports whether a message has no characters that a reader cannot see.
func isText(s string) bool {
	for line := range strings.Lines(s) {
		if line := strings.TrimSuffix(line, "\n"); visible(line, len(line)) != strings.ReplaceAll(line, `\`, `\\`) {
			return false
		}
	}
	return true
}
