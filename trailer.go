package wsproxy

import (
	"io"
	"net/http"
	"slices"
)

// applyTrailer has out carry those trailer fields of the client's that could
// pass in its header: an upstream may take both for one (CVE-2013-5704). Their
// names are there from the start, their values at the end of the body, in the
// inbound request alone.
func (p *headerPolicy) applyTrailer(out, in *http.Request) {
	trailer := make(http.Header)
	update := func() {
		for name, values := range in.Trailer {
			if p.passesInTrailer(name, in) {
				trailer[name] = values
			}
		}
	}
	update()
	out.Trailer = trailer
	out.Body = &notingBody{out.Body, update}
	// As HTTP/1.1 has it anyway, but a request of HTTP/2 does not say so, and
	// the Transport would read the start of its body on another goroutine.
	out.TransferEncoding = []string{"chunked"}
}

func (p *headerPolicy) passesInTrailer(name string, in *http.Request) bool {
	return isToken(name) && name != "Host" && !slices.Contains(ownFields, name) && !hasToken(in.Header["Connection"], name) &&
		!p.managed(name, false) && !slices.ContainsFunc(p.edits, func(e headerEdit) bool { return e.name == name })
}

// A notingBody calls atEnd when all of a body is read.
type notingBody struct {
	io.ReadCloser
	atEnd func()
}

func (b *notingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.atEnd()
	}
	return n, err
}
