package options_test

import (
	"context"
	"net"
	"net/http"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
)

// A dialer that returned neither ended the process at the first plain request,
// as on a goroutine of the Transport's nothing recovers. net/http checks for it.
func TestADialerThatReturnsNothingIsAFailureOfTheUpstream(t *testing.T) {
	errs := testkit.NewFailures()
	_, addr := testkit.ServeProxy(t, "http://app.example", errs.Option(),
		wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) { return nil, nil }))
	for _, request := range []string{testkit.SampleRequest, testkit.PlainRequest} {
		res, _ := testkit.Do(t, addr, request)
		assert.Equal(t, http.StatusBadGateway, res.StatusCode)
		err := errs.Next(t).Err
		assert.ErrorIs(t, err, wsproxy.ErrUpstream)
		assert.ErrorContains(t, err, "WithDialContext")
	}
}
