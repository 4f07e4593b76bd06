package main

import (
	"context"
	"fmt"
	"os"
	"sync"

	"example.com/wsproxy"
)

// open sets the proxy and shown. end closes the demo upstream. It calls watching
// for each goroutine that follows the addresses of a target until ctx is done.
func (v *service) open(ctx context.Context, signals <-chan os.Signal, watching *sync.WaitGroup) (end func(), err error) {
	options := append(v.options, wsproxy.WithLogger(v.log), wsproxy.WithHooks(wsproxy.Hooks{OnOpen: v.opened}))
	if len(v.targets) == 0 {
		demo, err := newDemo(v.log, v.listen)
		if err != nil {
			return nil, fmt.Errorf("demo upstream: %w", err)
		}
		if v.proxy, err = wsproxy.New(demo.url, options...); err != nil {
			demo.close()
			return nil, err
		}
		v.shown = "demo upstream"
		demo.serve(v.proxy)
		return demo.close, nil
	}
	u, resolver, err := v.upstream(ctx, signals)
	if err != nil {
		return nil, err
	}
	if resolver != nil {
		watching.Go(func() {
			u.Watch(ctx, resolver, func(err error) { v.log.Warn("servers not found, keeping the last ones", "error", err) })
		})
	}
	target := v.targets[0]
	if u != nil {
		options = append(options, wsproxy.WithUpstream(u))
		target = withoutSocket(target)
	}
	v.proxy, err = wsproxy.New(target, options...)
	v.shown = v.names(u)
	return func() {}, err
}
