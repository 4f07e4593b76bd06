//go:build linux

package faults_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// forward forwards every packet between the interfaces "left" and "right", with
// the delay and losses of r. The kernel's netem does the same, but many kernels
// lack it.
func forward(r role) error {
	var fds [2]int
	for i, name := range []string{"left", "right"} {
		ifi, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		fds[i], err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		// Packets must be marked so that the last interface computes their
		// checksums.
		if err := unix.SetsockoptInt(fds[i], unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
			return err
		}
		all := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}) // in network order
		if err := unix.Bind(fds[i], &unix.SockaddrLinklayer{Protocol: all, Ifindex: ifi.Index}); err != nil {
			return err
		}
	}
	for i := range fds {
		go oneWay(r, fds[i], fds[1-i], rand.New(rand.NewPCG(uint64(i), 0)))
	}
	return nil
}

// lost counts packets.
var lost atomic.Int64

func oneWay(r role, from, to int, random *rand.Rand) {
	type packet struct {
		due time.Time
		b   []byte
	}
	queue := make(chan packet, 10000)
	go func() {
		for p := range queue {
			time.Sleep(time.Until(p.due))
			unix.Write(to, p.b) // a link that is down drops it
		}
	}()
	b := make([]byte, 128<<10)
	for {
		n, addr, err := unix.Recvfrom(from, b, 0)
		if err != nil { // the link went down
			time.Sleep(time.Millisecond)
			continue
		}
		if addr, ok := addr.(*unix.SockaddrLinklayer); !ok || addr.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		if random.Float64() < r.Loss {
			lost.Add(1)
			continue
		}
		queue <- packet{time.Now().Add(r.Delay), slices.Clone(b[:n])}
	}
}

// A network is a client's host, a proxy, an upstream and the links between
// them, each in its own network namespace. A namespace lasts as long as its
// process.
type network struct {
	proxy, upstream, client  *process
	clientLink, upstreamLink cable
}

// A cable is a link that can be switched off.
type cable struct{ *process }

func (c cable) set(t testing.TB, state string) {
	t.Helper()
	for _, end := range []string{"left", "right"} {
		c.ask(t, "ip", "link", "set", end, state)
	}
}

// newNetwork returns a network whose two links behave as link says.
func newNetwork(t *testing.T, proxy, link role) *network {
	t.Helper()
	testkit.Program(t, "ip")
	unshare := testkit.Program(t, "unshare")
	if said, err := exec.Command(unshare, "--net", "true").CombinedOutput(); err != nil {
		testkit.Missing(t, "no network namespaces: %v: %s", err, said)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		testkit.Missing(t, "no packet sockets: %v", err)
	}
	unix.Close(fd)
	self, err := os.Executable()
	require.NoError(t, err)
	isolated := func(r role) *process {
		t.Helper()
		return launch(t, r, exec.Command(unshare, "--net", self))
	}
	link.Kind = "link"
	proxy.Kind, proxy.Listen = "proxy", "0.0.0.0:0"
	n := &network{
		upstream:     isolated(role{Kind: "upstream", Listen: "0.0.0.0:0"}),
		client:       isolated(role{Kind: "host"}),
		clientLink:   cable{isolated(link)},
		upstreamLink: cable{isolated(link)},
	}
	at := func(host string, p *process) string {
		_, port, err := net.SplitHostPort(p.addr)
		require.NoError(t, err)
		return net.JoinHostPort(host, port)
	}
	proxy.Target = "http://" + at("10.0.2.1", n.upstream)
	n.proxy = isolated(proxy)
	n.proxy.addr = at("10.0.1.2", n.proxy)
	n.proxy.dial = n.dial
	plug(t, n.clientLink, n.client, "eth0", "10.0.1.1/24", n.proxy, "eth0", "10.0.1.2/24")
	plug(t, n.upstreamLink, n.upstream, "eth0", "10.0.2.1/24", n.proxy, "eth1", "10.0.2.2/24")
	n.proxy.remember(t)
	return n
}

// plug connects two hosts.
func plug(t testing.TB, c cable, a *process, aName, aAddr string, b *process, bName, bAddr string) {
	t.Helper()
	for _, end := range []struct {
		host             *process
		name, addr, side string
	}{{a, aName, aAddr, "left"}, {b, bName, bAddr, "right"}} {
		said, err := exec.Command("ip", "link", "add", end.side, "netns", strconv.Itoa(c.Process.Pid),
			"type", "veth", "peer", "name", end.name, "netns", strconv.Itoa(end.host.Process.Pid)).CombinedOutput()
		if err != nil {
			testkit.Missing(t, "no pair of virtual interfaces: %v: %s", err, said)
		}
		end.host.ask(t, "ip", "addr", "add", end.addr, "dev", end.name)
		// Each packet is lost separately, not a whole batch of segments.
		end.host.ask(t, "ip", "link", "set", end.name, "up", "gso_max_segs", "1")
	}
	c.set(t, "up")
	c.ask(t, "forward")
}

// dial connects from the client's host.
func (n *network) dial(network, addr string) (conn net.Conn, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		var ns *os.File
		if ns, err = os.Open(fmt.Sprintf("/proc/%d/ns/net", n.client.Process.Pid)); err != nil {
			return
		}
		defer ns.Close()
		if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err == nil {
			conn, err = net.DialTimeout(network, addr, patience)
		}
	}()
	<-done
	return conn, err
}
