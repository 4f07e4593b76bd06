package talk

import (
	"context"
	"net/http"
	"strings"

	"github.com/coder/websocket"
	"github.com/coder/websocket/wsjson"
)

// Server is the Go server. The first part of the path selects what it does. The
// scripts' servers do the same.
func Server() http.Handler {
	accept := func(converse func(context.Context, *websocket.Conn, *http.Request)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{
				InsecureSkipVerify: true, // the proxy checks the Origin here
				Subprotocols:       []string{"chat.v2"},
				CompressionMode:    websocket.CompressionContextTakeover,
			})
			if err != nil {
				return
			}
			defer conn.CloseNow()
			conn.SetReadLimit(-1)
			converse(r.Context(), conn, r)
		}
	}
	mux := http.NewServeMux()
	mux.Handle("/echo/", accept(func(ctx context.Context, conn *websocket.Conn, _ *http.Request) {
		for {
			kind, message, err := conn.Read(ctx)
			if err != nil || conn.Write(ctx, kind, message) != nil {
				return
			}
		}
	}))
	mux.Handle("/ping", accept(func(ctx context.Context, conn *websocket.Conn, _ *http.Request) {
		ctx = conn.CloseRead(ctx)
		if conn.Ping(ctx) == nil {
			conn.Write(ctx, websocket.MessageText, []byte("pong"))
			<-ctx.Done()
		}
	}))
	mux.Handle("/close", accept(func(ctx context.Context, conn *websocket.Conn, _ *http.Request) {
		conn.Close(4001, "enough")
	}))
	mux.Handle("/drop", accept(func(ctx context.Context, conn *websocket.Conn, _ *http.Request) {}))
	mux.Handle("/headers", accept(func(ctx context.Context, conn *websocket.Conn, r *http.Request) {
		said := map[string]string{"host": r.Host}
		for _, name := range []string{"X-Real-IP", "X-Forwarded-For", "X-Forwarded-Proto", "Upgrade"} {
			said[strings.ToLower(name)] = r.Header.Get(name)
		}
		wsjson.Write(ctx, conn, said)
		conn.Read(ctx)
	}))
	mux.HandleFunc("/refuse", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("WWW-Authenticate", "Bearer")
		http.Error(w, "who are you?", http.StatusUnauthorized)
	})
	return mux
}
