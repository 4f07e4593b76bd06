package talk_test

import (
	"testing"

	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/interop/internal/talk"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func TestAGoClientAndAGoServerCanTalkToEachOther(t *testing.T) {
	addr := testkit.Serve(t, talk.Server())
	for _, scheme := range []string{"ws", "wss"} {
		t.Run(scheme, func(t *testing.T) {
			f := talk.NewFront(t, scheme, addr)
			talk.Check(t, f, talk.Go(t, f.URL, f.TLS))
		})
	}
}
