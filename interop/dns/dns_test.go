// Package dns_test makes wsproxy discover its servers from a real DNS server,
// whose records change while tunnels are open.
package dns_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/miekg/dns"
)

const patience = 10 * time.Second

func TestMain(m *testing.M) { testkit.Main(m) }

// A zone is a DNS server on the loopback interface.
type zone struct {
	mu      sync.Mutex
	records []string // in the syntax of a zone file
	rcode   int
	asked   int
	addr    string
}

func newZone(t *testing.T) *zone {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	z := &zone{addr: conn.LocalAddr().String()}
	ready := make(chan struct{})
	server := &dns.Server{PacketConn: conn, Handler: z, NotifyStartedFunc: func() { close(ready) }}
	served := make(chan error, 1)
	go func() { served <- server.ActivateAndServe() }()
	<-ready
	t.Cleanup(func() {
		server.Shutdown()
		<-served
	})
	return z
}

// ServeDNS answers from the records.
func (z *zone) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.asked++
	m := new(dns.Msg)
	m.SetReply(q)
	m.Authoritative = true
	m.Rcode = z.rcode
	exists := false
	for _, s := range z.records {
		record, err := dns.NewRR(s)
		if err != nil {
			panic(err)
		}
		if strings.EqualFold(record.Header().Name, q.Question[0].Name) {
			exists = true
			if record.Header().Rrtype == q.Question[0].Qtype && z.rcode == dns.RcodeSuccess {
				m.Answer = append(m.Answer, record)
			}
		}
	}
	if !exists && z.rcode == dns.RcodeSuccess {
		m.Rcode = dns.RcodeNameError
	}
	w.WriteMsg(m)
}

// set changes the records.
func (z *zone) set(rcode int, records ...string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.rcode, z.records, z.asked = rcode, records, 0
}

// heard returns how many queries arrived since set.
func (z *zone) heard() int {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.asked
}

func (z *zone) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", z.addr)
	}}
}

func eventually(t *testing.T, cond func() bool, what string) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
	}
}

// watch makes u follow r until the test ends.
func watch(t *testing.T, u *wsproxy.Upstream, r wsproxy.Resolver) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- u.Watch(ctx, r, nil) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != context.Canceled {
			t.Errorf("Watch: %v", err)
		}
	})
}

func describe(u *wsproxy.Upstream) string {
	var b strings.Builder
	for _, s := range u.Servers() {
		fmt.Fprintf(&b, "%s weight %d backup %v; ", s.Addr, s.Weight, s.Backup)
	}
	return b.String()
}

// server serves ip:port. It switches every request, sends its name and echoes.
func server(t *testing.T, ip string, port int) (actual int) {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(ip, strconv.Itoa(port)))
	if err != nil {
		testkit.Missing(t, "%v: this test wants two loopback addresses with the same port", err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, brw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: tcp\r\nConnection: Upgrade\r\nX-Server: "+ip+"\r\n\r\n")
		io.Copy(conn, brw)
	})}}
	s.Start()
	t.Cleanup(s.Close)
	return l.Addr().(*net.TCPAddr).Port
}

// open opens a tunnel and returns the client's end and the server's name.
func open(t *testing.T, addr string) (net.Conn, string) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(res, err)
	}
	return conn, res.Header.Get("X-Server")
}

func TestNewTunnelsFollowDNSAndOpenOnesStay(t *testing.T) {
	z := newZone(t)
	port := server(t, "127.0.0.1", 0)
	server(t, "127.0.0.5", port)
	z.set(dns.RcodeSuccess, "chat.example. 1 IN A 127.0.0.1")

	r := wsproxy.DNS{Name: "chat.example.", Port: port, Interval: 10 * time.Millisecond,
		Resolver: z.resolver(), Server: wsproxy.Server{MaxFails: 3}}
	servers, again, err := r.Resolve(t.Context())
	if err != nil || again != 10*time.Millisecond || len(servers) != 1 || servers[0].MaxFails != 3 {
		t.Fatal(servers, again, err)
	}
	u, err := wsproxy.NewUpstream(wsproxy.RoundRobin(), servers...)
	if err != nil {
		t.Fatal(err)
	}
	watch(t, u, r)
	proxy, err := wsproxy.New("http://chat.example", wsproxy.WithUpstream(u), wsproxy.WithUpgrades("tcp"))
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewServer(proxy)
	t.Cleanup(func() { proxy.Close(); front.Close() })

	first, name := open(t, front.Listener.Addr().String())
	if name != "127.0.0.1" {
		t.Fatal("switched by", name)
	}
	echo := func() {
		t.Helper()
		got := make([]byte, 5)
		io.WriteString(first, "hello")
		if _, err := io.ReadFull(first, got); err != nil || string(got) != "hello" {
			t.Fatal(string(got), err)
		}
	}
	both := fmt.Sprintf("127.0.0.1:%d weight 1 backup false; 127.0.0.5:%[1]d weight 1 backup false; ", port)
	second := fmt.Sprintf("127.0.0.5:%d weight 1 backup false; ", port)

	z.set(dns.RcodeSuccess, "chat.example. 1 IN A 127.0.0.5", "chat.example. 1 IN A 127.0.0.1")
	eventually(t, func() bool { return describe(u) == both }, "the second server is not found")
	z.set(dns.RcodeSuccess, "chat.example. 1 IN A 127.0.0.5")
	eventually(t, func() bool { return describe(u) == second }, "the first server stays")
	echo()
	if _, name := open(t, front.Listener.Addr().String()); name != "127.0.0.5" {
		t.Fatal("switched by", name)
	}
	for _, rcode := range []int{dns.RcodeServerFailure, dns.RcodeNameError, dns.RcodeSuccess} {
		z.set(rcode)
		eventually(t, func() bool { return z.heard() > 4 }, "no query arrives")
		if got := describe(u); got != second {
			t.Fatalf("after rcode %d: %s", rcode, got)
		}
	}
	echo()
}

func TestSRVRecordsGivePortsWeightsAndBackups(t *testing.T) {
	z := newZone(t)
	z.set(dns.RcodeSuccess,
		"_ws._tcp.chat.example. 1 IN SRV 10 5 8001 a.example.",
		"_ws._tcp.chat.example. 1 IN SRV 10 0 8002 b.example.",
		"_ws._tcp.chat.example. 1 IN SRV 20 7 8003 a.example.",
		"_ws._tcp.chat.example. 1 IN SRV 20 7 8001 a.example.",
		"_ws._tcp.chat.example. 1 IN SRV 10 1 8004 gone.example.",
		"a.example. 1 IN A 192.0.2.1",
		"b.example. 1 IN A 192.0.2.2",
		"b.example. 1 IN AAAA 2001:db8::2",
	)
	for _, r := range []wsproxy.DNSSRV{
		{Service: "ws", Proto: "tcp", Name: "chat.example."},
		{Name: "_ws._tcp.chat.example."},
	} {
		r.Resolver, r.Server = z.resolver(), wsproxy.Server{MaxTunnels: 9}
		servers, again, err := r.Resolve(t.Context())
		if err != nil || again != 5*time.Second {
			t.Fatal(again, err)
		}
		want := []wsproxy.Server{
			{Addr: "192.0.2.1:8001", Weight: 5, MaxTunnels: 9},
			{Addr: "192.0.2.1:8003", Weight: 7, MaxTunnels: 9, Backup: true},
			{Addr: "192.0.2.2:8002", Weight: 1, MaxTunnels: 9},
			{Addr: "[2001:db8::2]:8002", Weight: 1, MaxTunnels: 9},
		}
		if fmt.Sprint(servers) != fmt.Sprint(want) {
			t.Errorf("got  %v\nwant %v", servers, want)
		}
	}
}
