// Package nginx_test sends the same requests to the same upstream through a
// real nginx, with the recipes of testdata, and through wsproxy. They may
// differ only as differences_test.go and docs/nginx.md list.
package nginx_test

import (
	"crypto/tls"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) {
	flag.Set("test.parallel", "32") // the recipes mostly wait
	testkit.Main(m)
}

// frame is the configuration around a recipe. Each nginx has its own directory.
const frame = `daemon off;
master_process off;
worker_processes 1;
pid nginx.pid;
error_log stderr warn;
events { worker_connections 256; }
http {
    access_log off;
    client_body_temp_path client_body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    %s
}
`

// startNginx runs nginx with a recipe of testdata and returns its address.
// replace has pairs of text in the recipe and its replacement.
func startNginx(t testing.TB, recipe string, replace ...string) string {
	t.Helper()
	program := testkit.Program(t, "nginx")
	text, err := os.ReadFile(filepath.Join("testdata", recipe+".conf"))
	require.NoError(t, err)
	addr := lab.FreeAddr(t)
	dir := t.TempDir()
	cert, key := lab.Certificate(t, "127.0.0.1")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "cert.pem"), cert, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "key.pem"), key, 0o600))
	replace = append(replace, "listen 80", "listen "+addr, "listen 443", "listen "+addr)
	conf := fmt.Sprintf(frame, strings.NewReplacer(replace...).Replace(string(text)))
	file := filepath.Join(dir, "nginx.conf")
	require.NoError(t, os.WriteFile(file, []byte(conf), 0o600))
	lab.Start(t, exec.Command(program, "-p", dir, "-c", file, "-e", "stderr"))
	lab.Listening(t, addr)
	return addr
}

// A side is one of the two compared proxies.
type side struct {
	name string
	addr string
	tls  bool
}

func wsproxySide(t testing.TB, h http.Handler, overTLS bool) side {
	t.Helper()
	if overTLS {
		addr, _ := testkit.ServeTLS(t, h)
		return side{"wsproxy", addr, true}
	}
	return side{"wsproxy", testkit.Serve(t, h), false}
}

// dial connects to the proxy. The connection is closed when the test ends.
func (s side) dial(t testing.TB) *peer {
	t.Helper()
	return s.dialFrom(t, net.IPv4(127, 0, 0, 1))
}

func (s side) dialFrom(t testing.TB, ip net.IP) *peer {
	t.Helper()
	conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: ip}}).Dial("tcp", s.addr)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(testkit.Patience))
	if !s.tls {
		return newPeer(conn, conn)
	}
	// The certificates of both sides are made for the test.
	secure := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
	require.NoError(t, secure.Handshake())
	return newPeer(secure, conn)
}
