package http2_test

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// BenchmarkTunnelsOverTenConnections measures what a tunnel over HTTP/2 costs the
// wsproxy command and HAProxy, each a process of its own between one client, with
// ten connections, and one upstream:
//
//	go test -run '^$' -bench TenConnections ./http2
func BenchmarkTunnelsOverTenConnections(b *testing.B) {
	u := testkit.NewUpstream(b)
	u.Script(func(server *testkit.Peer) {
		server.SetDeadline(time.Time{})
		server.Switch(b, "")
		io.Copy(server.Conn, server)
	})
	for name, start := range map[string]func(*testing.B, string) (string, int){"wsproxy": startCommand, "HAProxy": startHAProxy} {
		for _, tunnels := range []int{64, 1000} {
			b.Run(fmt.Sprintf("%s/%d", name, tunnels), func(b *testing.B) {
				addr, pid := start(b, u.Addr)
				measure(b, addr, pid, tunnels)
			})
		}
	}
}

func measure(b *testing.B, addr string, pid, tunnels int) {
	var conns []*testkit.HTTP2Conn
	for range 10 {
		c := testkit.DialHTTP2(b, addr)
		warm := testkit.NewPeer(c.Connect(b, "/", nil))
		warm.Send(b, "hello")
		warm.Expect(b, "hello")
		conns = append(conns, c)
	}
	resident, cpu := memory(b, pid), processor(b, pid)
	var clients []*testkit.Peer
	for i := range tunnels - len(conns) {
		s := conns[i%len(conns)].Connect(b, "/", nil)
		if s.Response.StatusCode != 200 {
			b.Fatal(s.Response.Status)
		}
		clients = append(clients, testkit.NewPeer(s))
	}
	handshakes := processor(b, pid) - cpu
	resident = memory(b, pid) - resident

	cpu = processor(b, pid)
	b.ResetTimer()
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			got := make([]byte, 5)
			for n := i; n < b.N; n += len(clients) {
				io.WriteString(clients[i], "hello")
				if _, err := io.ReadFull(clients[i], got); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	b.StopTimer()
	b.ReportMetric(float64(handshakes.Microseconds())/float64(len(clients)), "cpu-µs/handshake")
	b.ReportMetric(float64(resident)/float64(len(clients))/1024, "KiB/tunnel")
	b.ReportMetric(float64((processor(b, pid)-cpu).Nanoseconds())/1000/float64(b.N), "cpu-µs/op")
	for _, client := range clients {
		client.Reset()
	}
}

// processor returns the processor time that a process has taken, in steps of 10 ms.
func processor(b *testing.B, pid int) time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// memory returns a process's resident bytes.
func memory(b *testing.B, pid int) int {
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		b.Fatal(err)
	}
	pages, _ := strconv.Atoi(strings.Fields(string(statm))[1])
	return pages * os.Getpagesize()
}

// pair writes the certificate and its key to files.
func pair(b *testing.B) (certificate, key, both string) {
	server, _ := testkit.TLS()
	secret, err := x509.MarshalPKCS8PrivateKey(server.Certificates[0].PrivateKey)
	if err != nil {
		b.Fatal(err)
	}
	c := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificates[0].Certificate[0]})
	k := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
	write := func(name string, p []byte) string {
		file := filepath.Join(b.TempDir(), name)
		if err := os.WriteFile(file, p, 0o600); err != nil {
			b.Fatal(err)
		}
		return file
	}
	return write("cert.pem", c), write("key.pem", k), write("both.pem", append(c, k...))
}

func startCommand(b *testing.B, upstream string) (addr string, pid int) {
	program := filepath.Join(b.TempDir(), "wsproxy")
	build := exec.Command(testkit.Program(b, "go"), "build", "-o", program, "./cmd/wsproxy")
	build.Dir = filepath.Join("..", "..")
	if said, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%s", said)
	}
	certificate, key, _ := pair(b)
	addr = freeAddr(b)
	cmd := exec.Command(program, "-listen", addr, "-http2", "-tls-cert", certificate, "-tls-key", key, "-log", "error", "http://"+upstream)
	lab.Start(b, cmd)
	lab.Listening(b, addr)
	return addr, cmd.Process.Pid
}

func startHAProxy(b *testing.B, upstream string) (addr string, pid int) {
	_, _, both := pair(b)
	addr = freeAddr(b)
	config := filepath.Join(b.TempDir(), "haproxy.cfg")
	text := fmt.Sprintf("global\n  maxconn 5000\n  tune.h2.max-concurrent-streams 250\ndefaults\n  mode http\n  timeout connect 5s\n"+
		"  timeout client 60s\n  timeout server 60s\n  timeout tunnel 60s\nfrontend front\n  bind %s ssl crt %s alpn h2\n"+
		"  default_backend back\nbackend back\n  server upstream %s\n", addr, both, upstream)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(testkit.Program(b, "haproxy"), "-db", "-f", config)
	lab.Start(b, cmd)
	lab.Listening(b, addr)
	return addr, cmd.Process.Pid
}

// freeAddr returns an address that was free a moment ago, for programs that do
// not tell which one they took.
func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}
