package wsdebug

import (
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
)

// Viewers wait for each other, so that together they use one processor. A viewer who
// leaves stops waiting.
func TestOnePageIsBuiltAtATime(t *testing.T) {
	h := Handler(testkit.NewProxy(t, "http://upstream"), nil).(*page)
	request := httptest.NewRequest(http.MethodGet, "/", nil)
	h.turn <- struct{}{} // somebody's page is being built
	gone := httptest.NewRecorder()
	h.ServeHTTP(gone, request.WithContext(testkit.EndedContext()))
	assert.Zero(t, gone.Body.Len())

	waits := httptest.NewRecorder()
	var served sync.WaitGroup
	served.Go(func() { h.ServeHTTP(waits, request) })
	<-h.turn
	served.Wait()
	assert.Equal(t, http.StatusOK, waits.Code)
	assert.Positive(t, waits.Body.Len())
	assert.Empty(t, h.turn, "the turn is given back")
}
