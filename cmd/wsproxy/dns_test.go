package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/require"
)

// nameserver makes net.DefaultResolver return the set addresses for every name
// until the test ends.
func nameserver(t *testing.T) (set func(addrs ...string)) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	var addrs atomic.Pointer[[]string]
	set = func(a ...string) { addrs.Store(&a) }
	set()
	var answering sync.WaitGroup
	answering.Go(func() {
		b := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			conn.WriteTo(answer(b[:n], *addrs.Load()), from)
		}
	})
	before := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
	t.Cleanup(func() {
		net.DefaultResolver = before
		conn.Close()
		answering.Wait()
	})
	return set
}

// answer returns the response to a DNS query (RFC 1035, section 4).
func answer(query []byte, addrs []string) []byte {
	end := 12
	for query[end] != 0 {
		end += 1 + int(query[end])
	}
	end++
	res := append([]byte{query[0], query[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, query[12:end+4]...)
	if query[end+1] != 1 { // of type A
		return res
	}
	res[7] = byte(len(addrs))
	for _, addr := range addrs {
		ip := netip.MustParseAddr(addr).As4()
		res = append(append(res, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4), ip[:]...)
	}
	return res
}

// neighbours are two servers on the same port of 127.0.0.1 and 127.0.0.2. Each
// responds with its address.
func neighbours(t *testing.T) (port string) {
	t.Helper()
	for range 20 {
		second, err := net.Listen("tcp", "127.0.0.2:0")
		if err != nil {
			testkit.Missing(t, "no second address of the loopback interface: %v", err) // macOS has but one
		}
		_, port, _ = net.SplitHostPort(second.Addr().String())
		first, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err != nil { // it is taken there
			second.Close()
			continue
		}
		for _, l := range []net.Listener{first, second} {
			ip := l.Addr().(*net.TCPAddr).IP.String()
			s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, ip+" ") })}
			go s.Serve(l)
			t.Cleanup(func() { s.Close() })
		}
		return port
	}
	require.Fail(t, "no port is free on both addresses")
	return ""
}

func TestDNSFollowsTheAddressesOfTheTargetsName(t *testing.T) {
	port := neighbours(t)
	set := nameserver(t)
	target := "http://chat.test.:" + port

	code, stdout, stderr := status(t, "-dns", "20ms", target)
	require.Equal(t, 1, code, "a name without an address")
	require.Empty(t, stdout)
	require.Contains(t, stderr, "wsproxy: lookup chat.test.")

	set("127.0.0.1", "127.0.0.2")
	c := start(t, "-dns", "20ms", target)
	require.Contains(t, c.line, fmt.Sprintf(" -> %s (now 127.0.0.1:%s, 127.0.0.2:%s)\n", target, port, port))
	three := func() (got string) {
		for range 3 {
			_, body := c.get(t, "/", "")
			got += body
		}
		return got
	}
	require.Contains(t, []string{"127.0.0.1 127.0.0.2 127.0.0.1 ", "127.0.0.2 127.0.0.1 127.0.0.2 "}, three())
	set("127.0.0.2")
	require.Eventually(t, func() bool { return three() == strings.Repeat("127.0.0.2 ", 3) }, testkit.Patience, time.Millisecond)
	set()
	c.stderr.Await(t, "level=WARN msg=\"servers not found")
	require.Equal(t, strings.Repeat("127.0.0.2 ", 3), three(), "the last ones stay")
	require.NotContains(t, c.stderr.String(), "request failed")
}

func TestASignalEndsTheFirstLookup(t *testing.T) {
	before := net.DefaultResolver
	defer func() { net.DefaultResolver = before }()
	asked := make(chan net.Conn, 100)
	over := t.Context()
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		if over.Err() != nil {
			return nil, over.Err()
		}
		ours, theirs := net.Pipe() // nobody reads the other end
		context.AfterFunc(over, func() { theirs.Close() })
		asked <- ours
		return ours, nil
	}}
	signals := make(chan os.Signal, 2)
	exited := make(chan int, 1)
	var stdout, stderr testkit.Buffer
	go func() { exited <- run(signals, []string{"-dns", "5s", "http://chat.test."}, &stdout, &stderr) }()
	<-asked
	began := time.Now()
	signals <- os.Interrupt
	require.Equal(t, 1, <-exited)
	require.Less(t, time.Since(began), 4*time.Second)
	require.Equal(t, "wsproxy: a signal arrived before wsproxy had started\n", stderr.String())
}

func TestDNSIsForTheTargetsOfRoutesToo(t *testing.T) {
	port := neighbours(t)
	nameserver(t)("127.0.0.1", "127.0.0.2")
	c := start(t, "-dns", "1h", "-route", "/ws=http://chat.test.:"+port, "-route", "/file=http://unix:/none.sock")
	require.Contains(t, c.line, fmt.Sprintf("/ws -> http://chat.test.:%s (now 127.0.0.1:%s, 127.0.0.2:%s)\n", port, port, port))
	_, first := c.get(t, "/ws", "")
	_, second := c.get(t, "/ws", "")
	require.ElementsMatch(t, []string{"127.0.0.1 ", "127.0.0.2 "}, []string{first, second})
	code, _ := c.get(t, "/file", "")
	require.Equal(t, http.StatusBadGateway, code, "a socket has no name to look up")
}
