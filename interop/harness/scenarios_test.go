package harness_test

import (
	"example.com/wsproxy/internal/frame"
	. "example.com/wsproxy/wsproxytest"
)

// A scenario is a fault that a library's end meets. The other end sends "one",
// "two" and "three", and the Handler calls fault in place of sending "two".
type scenario struct {
	title string
	about string
	fault func(w *Wire, f Frame)
	part  bool       // "two" is sent in two fragments
	end   func(conn) // what the library does besides reading
	stall bool       // nothing from the library's end is forwarded
}

var scenarios = []scenario{
	{title: "The end of stream in the middle of a frame", about: "The connection ends after 3 bytes of a frame of 5.",
		fault: func(w *Wire, f Frame) {
			w.SendPart(f, header(f)+1)
			w.Tunnel().Cut()
		}},
	{title: "The end of stream after a frame's header", about: "The connection ends after a frame's header (and its masking key, to a server).",
		fault: func(w *Wire, f Frame) {
			w.SendPart(f, header(f))
			w.Tunnel().Cut()
		}},
	{title: "The end of stream between two fragments", about: "The connection ends after the first of two fragments of a message.", part: true,
		fault: func(w *Wire, f Frame) {
			w.Send(f)
			w.Tunnel().Cut()
		}},
	{title: "The end of stream between two messages", about: "The connection ends without a Close frame.",
		fault: func(w *Wire, f Frame) { w.Tunnel().Cut() }},
	{title: "A reset between two messages", about: "The connection is reset.",
		fault: func(w *Wire, f Frame) { w.Tunnel().Reset() }},
	{title: "A reset in the middle of a frame", about: "The connection is reset after 3 bytes of a frame of 5.",
		fault: func(w *Wire, f Frame) {
			w.SendPart(f, header(f)+1)
			w.Tunnel().Reset()
		}},
	{title: "A silent peer", about: "After the first message nothing arrives, and no Ping is answered. The library's end has the keepalive that its " +
		"documentation shows: a Ping every 20 s, and 5 s for the Pong.",
		fault: func(w *Wire, f Frame) { <-w.Tunnel().Done() }, end: conn.keepAlive},
	{title: "A slow reader", about: "The other end reads nothing. The library's end writes messages of 32 KiB with a timeout of 5 s each. The page has the " +
		"error of the write that fails.",
		stall: true},
	{title: "An invalid first byte", about: "The first byte of a frame is ff: all reserved bits are set, and the opcode is 15.",
		fault: func(w *Wire, f Frame) { w.Write(invalid(f)) }},
	{title: "A frame with a reserved opcode", about: "A frame with opcode 3 arrives.",
		fault: func(w *Wire, f Frame) {
			f.Opcode = 3
			w.Send(f)
		}},
	{title: "A continuation of nothing", about: "A continuation frame arrives outside a message.",
		fault: func(w *Wire, f Frame) { w.Send(Frame{Opcode: OpContinuation, Fin: true, Payload: f.Payload}) }},
	{title: "Text that is not UTF-8", about: "A text message of the byte ff arrives. Then the other end closes.",
		fault: func(w *Wire, f Frame) {
			w.Send(Text("\xff"))
			w.Send(Close(1000, ""))
		}},
	{title: "A duplicated message", about: "A message arrives twice. Then the connection ends in order.",
		fault: func(w *Wire, f Frame) {
			w.Send(f)
			w.Send(f)
			w.Send(Close(1000, ""))
		}},
}

// header returns the size of a short frame's header.
func header(f Frame) int {
	if f.From == Client {
		return 6 // with its masking key
	}
	return 2
}

// invalid returns the wire form of f with an invalid first byte.
func invalid(f Frame) []byte {
	return frame.Append(nil, frame.Header{Fin: true, RSV: 7, Opcode: 15, Masked: f.From == Client}, f.Payload)
}
