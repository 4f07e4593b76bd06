package wsotel_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"

	"example.com/wsproxy"
	"example.com/wsproxy/wsotel"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

// isPlain reports whether a request asks for no upgrade: neither by the field
// Upgrade nor, over HTTP/2 and HTTP/3, by an extended CONNECT.
func isPlain(r *http.Request) bool {
	return r.Header.Get("Upgrade") == "" && r.Method != http.MethodConnect
}

// traceHandshakes begins a span for each upgrade. The hooks of handshakeSpans end
// it. So does the end of the handler, which has no effect if a hook came first.
func traceHandshakes(tracer trace.Tracer, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isPlain(r) {
			next.ServeHTTP(w, r)
			return
		}
		ctx := propagation.TraceContext{}.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
		ctx, span := tracer.Start(ctx, "GET /chat", trace.WithSpanKind(trace.SpanKindServer))
		defer span.End()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// handshakeSpans ends the span of an upgrade when its outcome is known.
var handshakeSpans = wsproxy.Hooks{
	OnOpen: func(t *wsproxy.Tunnel, r *http.Request) func(wsproxy.Ending) {
		endSpan(r, http.StatusSwitchingProtocols)
		return nil
	},
	OnRefuse: func(r *http.Request, status int, err error) { endSpan(r, status) },
}

func endSpan(r *http.Request, status int) {
	span := trace.SpanFromContext(r.Context())
	span.SetAttributes(attribute.Int("http.response.status_code", status))
	if status >= 500 {
		span.SetStatus(codes.Error, "")
	}
	span.End()
}

// continueTrace lets the upstream continue the trace.
func continueTrace(pr *httputil.ProxyRequest) {
	propagation.TraceContext{}.Inject(pr.In.Context(), propagation.HeaderCarrier(pr.Out.Header))
}

// Metrics of the proxy, one span for each handshake, and otelhttp for the other
// requests alone. Without its filter, otelhttp would report the lifetime of each
// tunnel as the duration of a request with status 200.
func Example() {
	meters := sdkmetric.NewMeterProvider() // with a reader that exports
	spans := tracetest.NewSpanRecorder()   // in place of an exporter
	tracers := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))

	durations, err := wsotel.Hooks(wsotel.WithMeterProvider(meters))
	if err != nil {
		log.Fatal(err)
	}
	upstream := newEchoServer()
	defer upstream.Close()
	proxy, err := wsproxy.New(upstream.URL, wsproxy.WithHooks(durations), wsproxy.WithHooks(handshakeSpans),
		wsproxy.WithRewrite(continueTrace))
	if err != nil {
		log.Fatal(err)
	}
	stop, err := wsotel.Observe(proxy, nil, wsotel.WithMeterProvider(meters))
	if err != nil {
		log.Fatal(err)
	}
	defer stop()

	handler := traceHandshakes(tracers.Tracer("chat"), proxy)
	handler = otelhttp.NewHandler(handler, "plain", otelhttp.WithFilter(isPlain),
		otelhttp.WithTracerProvider(tracers), otelhttp.WithMeterProvider(meters))
	server := httptest.NewServer(handler)
	defer server.Close()

	closeTunnel := openTunnel(server.URL + "/chat")
	for _, span := range spans.Ended() {
		status := span.Attributes()[0]
		fmt.Println(span.Name(), status.Key, status.Value.AsInt64(), "while", proxy.Stats().Live, "tunnel is open")
	}
	closeTunnel()
	proxy.Shutdown(context.Background()) // waits for its end
	fmt.Println(len(spans.Ended()), "span")
	// Output:
	// GET /chat http.response.status_code 101 while 1 tunnel is open
	// 1 span
}
