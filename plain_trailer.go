package wsproxy

import (
	"io"
	"net/http"
	"slices"
)

// applyTrailer has out carry the trailer fields that in announces, and returns
// them. A field passes only if the header could carry it too and does not have
// it yet: an upstream may take both for one (CVE-2013-5704). The names are known
// from the start. The values come at the end of the body, in in alone.
func (p *headerPolicy) applyTrailer(out, in *http.Request) http.Header {
	taken := fieldNames(in.Header)
	for name := range tokens(in.Header["Connection"]) {
		taken[dashed(name)] = true
	}
	trailer := make(http.Header)
	for name := range in.Trailer {
		if !taken[dashed(name)] && p.passesInTrailer(name) {
			trailer[name] = nil
		}
	}
	out.Trailer = trailer
	out.Body = &notingBody{out.Body, func() {
		for name := range trailer {
			trailer[name] = in.Trailer[name]
		}
	}}
	// As HTTP/1.1 has it anyway, but a request of HTTP/2 does not say so, and
	// the Transport would read the start of its body on another goroutine.
	out.TransferEncoding = []string{"chunked"}
	return trailer
}

func (p *headerPolicy) passesInTrailer(name string) bool {
	return isToken(name) && name != "Host" && !slices.Contains(ownFields, name) &&
		!p.managed(name, false) && !slices.ContainsFunc(p.edits, func(e headerEdit) bool { return e.name == name })
}

// withoutFields removes the fields from trailer that h has.
func withoutFields(trailer, h http.Header) {
	if len(trailer) == 0 {
		return
	}
	taken := fieldNames(h)
	for name := range trailer {
		if taken[dashed(name)] {
			delete(trailer, name)
		}
	}
}

// fieldNames returns the names in h as the servers that take all punctuation
// for the same read them.
func fieldNames(h http.Header) map[string]bool {
	names := make(map[string]bool, len(h))
	for name := range h {
		names[dashed(name)] = true
	}
	return names
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
