package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
)

// A peer is a proxy that the bench can start.
type peer struct {
	name    string
	version string
	command func(place) (command, error) // nil: no proxy
}

// A place says where a proxy listens and what it forwards to.
type place struct {
	addr, upstream string
	cert           *certificate // nil without TLS
	dir            string       // for its files
	files          int          // that a process may have open
	core           int          // to pin it to, -1: any
	threads        int
	collect        bool // Go programs collect garbage often
	http2          bool // for clients of HTTP/2 alone
}

// findPeer returns a peer, or an error that says why it is left out.
func findPeer(ctx context.Context, name, dir string) (peer, error) {
	p := peer{name: name}
	switch name {
	case "direct":
		return p, nil
	case "nginx", "haproxy":
		program, err := findProgram(name)
		if err != nil {
			return p, err
		}
		out, err := exec.CommandContext(ctx, program, "-v").CombinedOutput()
		if err != nil {
			return p, fmt.Errorf("%s -v: %w", name, err)
		}
		line, _, _ := bytes.Cut(out, []byte("\n"))
		p.version = strings.TrimPrefix(string(line), "nginx version: ")
		p.version, _, _ = strings.Cut(p.version, " - ")
		p.command = func(at place) (command, error) { return nginx(program, at) }
		if name == "haproxy" {
			p.command = func(at place) (command, error) { return haproxy(program, at) }
		}
		return p, nil
	case portablePeer:
		program := filepath.Join(dir, "portable")
		build := exec.CommandContext(ctx, "go", "build", "-tags", "wsproxy_portable", "-o", program, ".")
		if out, err := build.CombinedOutput(); err != nil {
			return p, fmt.Errorf("go build: %w: %s", err, out)
		}
		p.command = func(at place) (command, error) {
			c := goProxy(name, at)
			c.args[0] = program
			return c, nil
		}
		return p, nil
	}
	p.version = runtime.Version()
	if name == "caddy" {
		p.version = moduleVersion("github.com/caddyserver/caddy/v2") + ", " + runtime.Version()
	}
	p.command = func(at place) (command, error) { return goProxy(name, at), nil }
	return p, nil
}

// findProgram also looks in directories that a user's PATH may lack.
func findProgram(name string) (string, error) {
	for _, path := range []string{name, "/usr/sbin/" + name, "/usr/local/sbin/" + name} {
		if found, err := exec.LookPath(path); err == nil {
			return found, nil
		}
	}
	return "", fmt.Errorf("not installed")
}

func moduleVersion(path string) string {
	info, _ := debug.ReadBuildInfo()
	for _, module := range info.Deps {
		if module.Path == path {
			return module.Version
		}
	}
	return ""
}

func goProxy(name string, at place) command {
	args := []string{name, at.addr, at.upstream}
	if at.cert != nil {
		args = append(args, at.cert.cert, at.cert.key)
	}
	c := role("proxy", at.core, args...)
	c.name = name
	c.env = []string{"XDG_DATA_HOME=" + at.dir, "XDG_CONFIG_HOME=" + at.dir} // Caddy's
	if at.collect {
		c.env = append(c.env, collectEnv+"=1")
	}
	if at.http2 {
		c.env = append(c.env, "GODEBUG=http2xconnect=1") // announces extended CONNECT
	}
	return c
}

// nginx runs the well-known recipe with a worker for each core.
func nginx(program string, at place) (command, error) {
	user, listen := "", at.addr+" backlog=4096" // as the others choose
	if os.Geteuid() == 0 {
		user = "user root;"
	}
	if at.cert != nil {
		listen += " ssl;\n    ssl_protocols TLSv1.2 TLSv1.3;\n    ssl_certificate " + at.cert.cert + ";\n    ssl_certificate_key " + at.cert.key
	}
	var temp strings.Builder
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&temp, "  %s_temp_path %s;\n", kind, filepath.Join(at.dir, kind))
	}
	config := fmt.Sprintf(`%s
daemon off;
worker_processes %d;
worker_rlimit_nofile %d;
pid %s;
error_log stderr crit;
events {
  worker_connections %d;
}
http {
  access_log off;
%s
  map $http_upgrade $connection_upgrade {
    default upgrade;
    ''      close;
  }
  server {
    listen %s;
    location / {
      proxy_pass http://%s;
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      proxy_set_header Host $host;
      proxy_set_header X-Real-IP $remote_addr;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    }
  }
}
`, user, at.threads, at.files, filepath.Join(at.dir, "nginx.pid"), at.files, temp.String(), listen, at.upstream)
	path, err := writeConfig(at.dir, "nginx.conf", config)
	return command{
		name: "nginx", args: []string{program, "-p", at.dir, "-c", path, "-e", "stderr"},
		signal: syscall.SIGTERM, // its master ends the worker
		core:   at.core,
	}, err
}

// haproxy runs in mode http with a thread for each core.
func haproxy(program string, at place) (command, error) {
	bind := at.addr
	if at.cert != nil {
		bind += " ssl crt " + at.cert.both + " ciphersuites TLS_AES_128_GCM_SHA256" // as the others choose
	}
	if at.http2 {
		bind += " alpn h2"
	}
	config := fmt.Sprintf(`global
  nbthread %d
  maxconn %d
  tune.h2.max-concurrent-streams 250
defaults
  mode http
  option forwardfor
  timeout connect 60s
  timeout client 60s
  timeout server 60s
  timeout tunnel 60s
frontend bench
  bind %s
  default_backend upstream
backend upstream
  server upstream %s
`, at.threads, (at.files-500)/2, bind, at.upstream)
	path, err := writeConfig(at.dir, "haproxy.cfg", config)
	return command{
		name: "haproxy", args: []string{program, "-db", "-q", "-f", path},
		signal: os.Kill, core: at.core,
	}, err
}

func writeConfig(dir, name, text string) (string, error) {
	path := filepath.Join(dir, name)
	return path, os.WriteFile(path, []byte(text), 0o600)
}
