package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"example.com/wsproxy"
	"github.com/caddyserver/caddy/v2"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp"              // the http app
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy" // its proxy
	_ "github.com/caddyserver/caddy/v2/modules/caddytls"               // the tls app
)

// runRole is what a child of this program does.
func runRole(name string, args []string) error {
	switch name {
	case "upstream":
		return runUpstream(args)
	case "load":
		return runLoad(args)
	case "proxy":
		return runProxy(args)
	}
	return fmt.Errorf("no role %q", name)
}

// collectEnv makes a proxy collect garbage often, as in a program that does much
// beside its tunnels.
const collectEnv = "WSPROXY_BENCH_COLLECT"

// collectEvery is the time from one such collection to the next.
const collectEvery = 200 * time.Millisecond

// runProxy is the role of the proxies written in Go: the peer's name, its
// address, the upstream's, and for TLS the files of certificate and key.
func runProxy(args []string) error {
	if len(args) != 3 && len(args) != 5 {
		return fmt.Errorf("a proxy takes 3 or 5 arguments, not %d", len(args))
	}
	name, addr, upstream := args[0], args[1], args[2]
	if name == "caddy" {
		if err := runCaddy(addr, upstream, args[3:]); err != nil {
			return err
		}
		return settle()
	}
	handler, err := newHandler(name, upstream)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	if os.Getenv(collectEnv) != "" {
		go func() {
			for range time.Tick(collectEvery) {
				runtime.GC()
			}
		}()
	}
	server := &http.Server{Handler: handler, ErrorLog: log.New(io.Discard, "", 0), HTTP2: wsproxy.HTTP2Config()}
	go func() {
		if len(args) == 5 {
			exit(server.ServeTLS(listener, args[3], args[4]))
		}
		exit(server.Serve(listener))
	}()
	return settle()
}

// settle replies to each line from the parent after returning the process's
// free memory, as an idle process does after some minutes. It returns when the
// parent ends.
func settle() error {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		runtime.GC() // sync.Pool releases items in two steps
		runtime.GC()
		debug.FreeOSMemory()
		if _, err := os.Stdout.WriteString("{}\n"); err != nil {
			return err
		}
	}
	return lines.Err()
}

func newHandler(name, upstream string) (http.Handler, error) {
	target := "http://" + upstream
	switch name {
	case floorPeer:
		return floor(upstream), nil
	case "wsproxy", portablePeer:
		return wsproxy.New(target)
	case "wsproxy-detached":
		return wsproxy.New(target, wsproxy.WithDetached())
	case bytesPeer:
		proxy, err := wsproxy.New(target, wsproxy.WithUpgrades("bytes"))
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Header.Set("Upgrade", "bytes")
			proxy.ServeHTTP(w, r)
		}), err
	case "httputil":
		to, err := url.Parse(target)
		return &httputil.ReverseProxy{
			Rewrite: func(r *httputil.ProxyRequest) {
				r.SetURL(to)
				r.SetXForwarded()
				r.Out.Host = r.In.Host
			},
			ErrorLog: log.New(io.Discard, "", 0),
		}, err
	}
	return nil, fmt.Errorf("no proxy %q", name)
}

// runCaddy starts Caddy with a reverse_proxy and nothing else.
func runCaddy(addr, upstream string, files []string) error {
	type object = map[string]any
	server := object{
		"listen":          []string{addr},
		"automatic_https": object{"disable": true},
		"routes": []object{{"handle": []object{{
			"handler":   "reverse_proxy",
			"upstreams": []object{{"dial": upstream}},
		}}}},
	}
	apps := object{"http": object{"servers": object{"bench": server}}}
	if len(files) == 2 {
		server["tls_connection_policies"] = []object{{}}
		apps["tls"] = object{"certificates": object{"load_files": []object{{"certificate": files[0], "key": files[1]}}}}
	}
	config, err := json.Marshal(object{
		"admin":   object{"disabled": true, "config": object{"persist": false}},
		"logging": object{"logs": object{"default": object{"level": "ERROR"}}},
		"apps":    apps,
	})
	if err != nil {
		return err
	}
	return caddy.Load(config, true)
}
