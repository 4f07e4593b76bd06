package nginx_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	wsframe "example.com/wsproxy/internal/frame" // frame is the configuration here
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/require"
)

// open opens a tunnel and returns both its ends.
func (x *stage) open(path string) (c, up *peer) {
	x.Helper()
	c = x.dial(x)
	require.Equal(x, 101, x.ask(c, upgrade(path)).status())
	return c, x.tunnel()
}

// lastWords reads the rest and describes it, with Close frames decoded.
func (p *peer) lastWords() string {
	said := p.rest()
	i := strings.LastIndex(said, `", `)
	var got []byte
	fmt.Sscanf(said[:i+1], "%q", &got)
	f, err := testkit.ReadFrame(bytes.NewReader(got))
	if err != nil || f.First != testkit.Close {
		return said
	}
	code, reason := wsframe.ParseClose([]byte(f.Payload))
	return fmt.Sprintf("Close %d %q, %s", code, reason, said[i+3:])
}

// endings are trials with tunnels at a location /websocket.
var endings = []trial{{
	name: "a megabyte each way, and an orderly end",
	play: func(x *stage) {
		c, up := x.open("/websocket")
		megabyte := strings.Repeat("0123456789abcdef", 1<<16)
		sent := make(chan error, 2)
		for _, p := range []*peer{c, up} {
			go func() {
				_, err := io.WriteString(p, megabyte)
				sent <- err
			}()
		}
		up.expect(x, megabyte)
		c.expect(x, megabyte)
		require.NoError(x, errors.Join(<-sent, <-sent))
		c.Close()
		x.note("upstream: end", "%s", up.rest())
	},
	response: switching,
}, {
	name: "the client half-closes", differs: []string{halfClose},
	play: func(x *stage) {
		c, up := x.open("/websocket")
		c.send(x, "bye")
		c.closeWrite(x)
		x.note("upstream: end", "%s", up.rest())
		io.WriteString(up, "last words")
		up.Close()
		x.note("client: end", "%s", c.rest())
	},
	response: switching,
}, {
	name: "the upstream half-closes", differs: []string{halfClose},
	play: func(x *stage) {
		c, up := x.open("/websocket")
		up.send(x, "bye")
		up.closeWrite(x)
		x.note("client: end", "%s", c.rest())
		io.WriteString(c, "last words")
		c.Close()
		x.note("upstream: end", "%s", up.rest())
	},
	response: switching,
}, {
	name: "the client resets", differs: []string{resets},
	play: func(x *stage) {
		c, up := x.open("/websocket")
		c.reset()
		x.note("upstream: end", "%s", up.rest())
	},
	response: switching,
}, {
	name: "the upstream resets", differs: []string{resets},
	play: func(x *stage) {
		c, up := x.open("/websocket")
		up.reset()
		x.note("client: end", "%s", c.rest())
	},
	response: switching,
}}
