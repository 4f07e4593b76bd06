package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"example.com/wsproxy"
)

// hooks log the tunnels and refusals of a route and count the tunnels that the
// drain cuts.
func (v *service) hooks(m *mounted) wsproxy.Hooks {
	return wsproxy.Hooks{
		OnOpen: func(t *wsproxy.Tunnel, r *http.Request) func(wsproxy.Ending) {
			v.access.opened(m.pattern, t, r)
			return func(e wsproxy.Ending) {
				v.closed(e)
				v.access.closed(m.pattern, t, e)
				v.endings.closed(m.pattern, t, e)
			}
		},
		OnRefuse: func(r *http.Request, status int, err error) { v.access.refused(m.pattern, r, status, err) },
	}
}

// closed counts the tunnels cut during the drain, but not those that reached the
// send timeout while they waited for their turn of -spread.
func (v *service) closed(e wsproxy.Ending) {
	if v.draining.Load() && errors.Is(e.Err, wsproxy.ErrCut) && e.Reason != wsproxy.ReasonSendTimeout {
		v.cut.Add(1)
	}
}

// drain waits for tunnels and requests to end until -drain expires or another
// signal arrives, and then cuts the rest. It returns an error if it has cut
// something, or if the close timeout has. leave closes the listeners.
//
// Requests that clients have sent before the listener closes are served, so that
// they notice nothing if another process listens. See settle.
func (v *service) drain(signals <-chan os.Signal, leave func()) error {
	v.draining.Store(true)
	v.log.Info("draining; another signal closes everything immediately", "tunnels", v.live(), "for", v.wait)
	ctx, stop := context.WithCancelCause(context.Background())
	defer stop(nil)
	ctx, cancel := context.WithTimeoutCause(ctx, v.wait, fmt.Errorf("still open after %v", v.wait))
	defer cancel()
	go func() {
		select {
		case <-signals:
			stop(errors.New("a second signal arrived"))
		case <-ctx.Done():
		}
	}()

	v.stepAside(ctx)
	leave()
	v.settle(ctx)

	// http.Server.Shutdown ignores hijacked connections, and Proxy.Shutdown
	// ignores plain requests. Call both concurrently, so that upgrades on
	// connections that remain are refused.
	unfinished := make(chan int, 1)
	go func() {
		n := 0
		if v.server.Shutdown(ctx) != nil {
			v.requests.Range(func(any, any) bool { n++; return true })
			v.server.Close()
		}
		unfinished <- n
	}()
	var routes sync.WaitGroup
	for _, m := range v.routes {
		routes.Go(func() {
			if v.spread > 0 { // Shutdown leaves tunnels of other protocols open until ctx is done
				m.proxy.Drain(ctx, v.spread, func(t *wsproxy.Tunnel) bool { return t.Protocol() == "websocket" })
			}
			m.proxy.Shutdown(ctx) // ignore the error: handshakes count as requests below
		})
	}
	ended := make(chan struct{})
	go func() {
		routes.Wait()
		close(ended)
	}()
	if !v.await(ctx, ended) {
		return fmt.Errorf("cut %s: standard output takes no more of the access log", plural(v.live(), "tunnel"))
	}
	var cut []string
	requests := <-unfinished
	if n := v.cut.Load(); n > 0 || requests > 0 {
		cut = append(cut, plural(int(n), "tunnel"))
	}
	if requests > 0 {
		cut = append(cut, plural(requests, "request"))
	}
	if cut == nil {
		return nil
	}
	why := context.Cause(ctx)
	if why == nil {
		why = errors.New("no answer to the Close frame within the close timeout")
	}
	return fmt.Errorf("cut %s: %w", strings.Join(cut, " and "), why)
}

// await waits until the tunnels have ended. It returns false if ctx is done and
// the tunnels still wait for their lines in the access log.
func (v *service) await(ctx context.Context, ended <-chan struct{}) bool {
	select {
	case <-ended:
		return true
	case <-ctx.Done():
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ended:
			return true
		case <-tick.C:
			if v.access.stuck() {
				return false
			}
		}
	}
}

func plural(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprint(n, " ", noun)
}
