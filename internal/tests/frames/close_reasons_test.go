package frames_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A Close frame is whatever an end likes to send. The Ending has its bytes, and
// a log stays well-formed.
func TestAnEndingHasWhatAnEndSaidWhateverItSaid(t *testing.T) {
	limited := []wsproxy.Option{wsproxy.WithMaxClientMessageSize(1000), wsproxy.WithMaxUpstreamMessageSize(1000), wsproxy.WithMessageRate(1000, 1000)}
	for name, test := range map[string]struct {
		payload string
		want    wsproxy.CloseFrame
	}{
		"empty":              {"", wsproxy.CloseFrame{Code: 1005}},
		"half a code":        {"\x03", wsproxy.CloseFrame{Code: 1005}},
		"a code of nobody's": {"\x00\x00", wsproxy.CloseFrame{Code: 0}},
		"a reserved code":    {"\x03\xedgone", wsproxy.CloseFrame{Code: 1005, Reason: "gone"}},
		"not UTF-8":          {"\x03\xe8\xff\xfe\x80\x00\x1b[2J\n\"", wsproxy.CloseFrame{Code: 1000, Reason: "\xff\xfe\x80\x00\x1b[2J\n\""}},
		"long and not UTF-8": {"\x0f\xa0" + strings.Repeat("\xff", 123), wsproxy.CloseFrame{Code: 4000, Reason: strings.Repeat("\xff", 123)}},
	} {
		for limits, opts := range map[string][]wsproxy.Option{"": nil, ", with limits": limited} {
			for pieces, size := range map[string]int{"": 200, ", byte by byte": 1} {
				t.Run(name+limits+pieces, func(t *testing.T) {
					testkit.FromEither(t, opts, func(t *testing.T, r *testkit.MemRig, from, to testkit.End) {
						rest := from.Frame(testkit.Close, test.payload)
						if limits == "" {
							rest += from.Frame(testkit.Close, testkit.ClosePayload(1001, "the second"))
						}
						for ; rest != ""; rest = rest[min(size, len(rest)):] {
							from.Send(t, rest[:min(size, len(rest))])
							synctest.Wait()
						}
						to.SendFrame(t, testkit.Close, "")
						synctest.Wait()
						to.Close()
						from.Close()
						ending := r.EndsIn(t, 0, from.Closed())
						assert.Equal(t, test.want, from.ClosedWith(ending))
						var out bytes.Buffer
						slog.New(slog.NewJSONHandler(&out, nil)).Info("", "ending", ending)
						assert.True(t, json.Valid(out.Bytes()), out.String())
						require.True(t, utf8.Valid(out.Bytes()), out.String())
						out.Reset()
						slog.New(slog.NewTextHandler(&out, nil)).Info("", "ending", ending)
						assert.Equal(t, 1, strings.Count(out.String(), "\n"), out.String())
						assert.NotContains(t, out.String(), "\x1b")
					})
				})
			}
		}
	}
}

// The end of a Close frame was noted as its code, so that one with the code 0 was
// none: its sender was pinged, which may not follow a Close frame, and cut off
// for its silence while the other end still sent.
func TestAnEndThatHasSentACloseFrameIsNotPingedWhateverItsCode(t *testing.T) {
	for name, payload := range map[string]string{"1000": "\x03\xe8", "0": "\x00\x00"} {
		t.Run(name, func(t *testing.T) {
			testkit.FromEither(t, pings, func(t *testing.T, r *testkit.MemRig, from, to testkit.End) {
				from.SendFrame(t, testkit.Close, payload)
				to.ExpectFrame(t, testkit.Close, payload)
				for range 60 {
					to.SendFrame(t, testkit.Text, "not done yet")
					from.ExpectFrame(t, testkit.Text, "not done yet")
					time.Sleep(time.Second)
				}
				assert.Empty(t, r.Ended)
				to.SendFrame(t, testkit.Close, payload)
				from.ExpectFrame(t, testkit.Close, payload)
				synctest.Wait()
				to.Close()
				from.Close()
				assert.NoError(t, r.EndsIn(t, 0, from.Closed()).Err)
			})
		})
	}
}
