package wsproxy

import (
	"errors"
	"io"
	"testing"

	"example.com/wsproxy/internal/frame"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A brokenSink takes nothing.
type brokenSink struct{ sinkTo }

var errBroken = errors.New("broken")

func (*brokenSink) write([]byte) error { return errBroken }

// The comment at flowState has the table of these.
func TestAFlowGoesFromStateToState(t *testing.T) {
	closeFrame := frame.AppendControl(nil, frame.OpClose, []byte{0x03, 0xe8}, true)
	data := frame.Append(nil, frame.Header{Fin: true, Opcode: frame.OpText, Masked: true}, []byte("hello"))
	breaks := func(f *flow) { f.dst = new(brokenSink) }
	leave := func(f *flow) { f.t.goAway(ReasonKilled, 4000, "") }
	take := func(p []byte, err error) func(*flow) { return func(f *flow) { f.take(p, err) } }
	stop := func(f *flow) { f.stop(errBroken) }
	for name, test := range map[string]struct {
		steps []func(*flow)
		want  flowState
	}{
		"src sends":                                    {[]func(*flow){take(data, nil)}, open},
		"src sends its Close frame":                    {[]func(*flow){take(closeFrame, nil)}, open},
		"src ends":                                     {[]func(*flow){take(nil, io.EOF)}, ended},
		"src fails with bytes":                         {[]func(*flow){take(data, errBroken)}, ended},
		"dst fails":                                    {[]func(*flow){breaks, take(data, nil)}, discarding},
		"dst fails before anything was read":           {[]func(*flow){breaks, (*flow).begin}, discarding},
		"dst fails as src ends":                        {[]func(*flow){breaks, take(data, io.EOF)}, ended},
		"dst fails, src sends":                         {[]func(*flow){breaks, take(data, nil), take(data, nil)}, discarding},
		"dst fails, src sends its Close frame":         {[]func(*flow){breaks, take(data, nil), take(closeFrame, nil)}, discarding},
		"dst fails, src ends":                          {[]func(*flow){breaks, take(data, nil), take(nil, io.EOF)}, ended},
		"the proxy closes":                             {[]func(*flow){leave, take(nil, nil)}, discarding},
		"the proxy closes within a frame":              {[]func(*flow){take(data[:3], nil), leave, take(data[3:4], nil)}, open},
		"the proxy closes as src ends":                 {[]func(*flow){leave, take(nil, io.EOF)}, ended},
		"the proxy closes, src answers":                {[]func(*flow){leave, take(nil, nil), take(closeFrame, nil)}, ended},
		"the proxy closes, src has closed":             {[]func(*flow){take(closeFrame, nil), leave, take(nil, nil)}, ended},
		"dst fails late, when src has ended":           {[]func(*flow){take(nil, io.EOF), stop}, ended},
		"dst fails late, when src's bytes are dropped": {[]func(*flow){leave, take(nil, nil), stop}, discarding},
	} {
		t.Run(name, func(t *testing.T) {
			f, _ := newTestFlow(true, 0)
			require.Equal(t, open, f.state)
			for _, step := range test.steps {
				step(f)
			}
			assert.Equal(t, test.want, f.state)
		})
	}
}
