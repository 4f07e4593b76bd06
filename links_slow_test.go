package wsproxy_test

import "testing"

// overLinksAtOnce is overLinks for tests that have to wait. begin is called for
// every link before the first of the tests that it returns is run, so that all
// wait together.
func overLinksAtOnce(t *testing.T, fits func(link) bool, begin func(t *testing.T, l link) (test func(*testing.T))) {
	t.Helper()
	tests := map[string]func(*testing.T){}
	for _, l := range links {
		if fits == nil || fits(l) {
			tests[l.name] = begin(t, l)
		}
	}
	for name, test := range tests {
		t.Run(name, test)
	}
}
