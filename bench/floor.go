package main

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
)

// floor returns a handler that does only what a proxy over net/http must do for a
// WebSocket: it dials, writes the request, reads the response's header, hijacks and
// copies. It checks nothing, and has no timeouts.
func floor(upstream string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		up, err := net.Dial("tcp", upstream)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer up.Close()
		response, err := ask(up, r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		client, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer client.Close()
		client.Write(response)
		go func() {
			transfer(up, buffered)
			up.(*net.TCPConn).CloseWrite()
		}()
		transfer(client, up)
	})
}

// transfer is io.Copy without splice(2), which needs a pipe, and with a smaller
// buffer. Both cost a short tunnel much.
func transfer(to io.Writer, from io.Reader) {
	buf := make([]byte, 2<<10)
	for {
		n, err := from.Read(buf)
		if _, bad := to.Write(buf[:n]); err != nil || bad != nil {
			return
		}
	}
}

// ask writes r and returns the response including the blank line, and the bytes that
// follow it.
func ask(up net.Conn, r *http.Request) ([]byte, error) {
	request := append(make([]byte, 0, 1024), "GET "+r.RequestURI+" HTTP/1.1\r\nHost: "+r.Host+"\r\n"...)
	for name, values := range r.Header {
		for _, value := range values {
			request = append(request, name+": "+value+"\r\n"...)
		}
	}
	if _, err := up.Write(append(request, "\r\n"...)); err != nil {
		return nil, err
	}
	response := make([]byte, 0, 1024)
	for !bytes.Contains(response, []byte("\r\n\r\n")) {
		n, err := up.Read(response[len(response):cap(response)])
		if response = response[:len(response)+n]; err != nil {
			return nil, err
		}
		if len(response) == cap(response) {
			return nil, errors.New("the response's header is too long")
		}
	}
	return response, nil
}
