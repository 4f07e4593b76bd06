package tunnel_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// records make a TLS 1.3 client's records after its handshake, so that a test
// decides which of their bytes arrive when.
type records struct {
	t      testing.TB
	client *testkit.Peer
	secret []byte
	aead   cipher.AEAD
	iv     []byte
	seq    uint64
}

// recordTunnel opens a tunnel whose client is driven by records.
func recordTunnel(t testing.TB, r *testkit.Rig) (c *records, server *testkit.Peer) {
	t.Helper()
	var log testkit.Buffer
	r.TLS = r.TLS.Clone()
	r.TLS.KeyLogWriter = &log
	client, server := r.Tunnel(t)
	if suite := client.Conn.(*tls.Conn).ConnectionState().CipherSuite; suite != tls.TLS_AES_128_GCM_SHA256 {
		t.Skipf("the cipher suite is %s", tls.CipherSuiteName(suite))
	}
	for line := range strings.Lines(log.String()) {
		if field := strings.Fields(line); field[0] == "CLIENT_TRAFFIC_SECRET_0" {
			secret, err := hex.DecodeString(field[2])
			require.NoError(t, err)
			c = &records{t: t, client: client}
			c.key(secret)
			c.seq = 1 // the request was one record
			return c, server
		}
	}
	t.Fatalf("no secret in %q", log.String())
	return nil, nil
}

func (c *records) key(secret []byte) {
	block, err := aes.NewCipher(c.expand(secret, "key", 16))
	require.NoError(c.t, err)
	c.aead, err = cipher.NewGCM(block)
	require.NoError(c.t, err)
	c.secret, c.iv, c.seq = secret, c.expand(secret, "iv", 12), 0
}

// expand is HKDF-Expand-Label of RFC 8446, section 7.1.
func (c *records) expand(secret []byte, label string, n int) []byte {
	label = "tls13 " + label
	info := fmt.Sprintf("%c%c%c%s\x00", 0, n, len(label), label)
	out, err := hkdf.Expand(sha256.New, secret, info, n)
	require.NoError(c.t, err)
	return out
}

// record returns the next record.
func (c *records) record(kind byte, payload string) []byte {
	inner := append([]byte(payload), kind)
	header := binary.BigEndian.AppendUint16([]byte{23, 3, 3}, uint16(len(inner)+c.aead.Overhead()))
	nonce := bytes.Clone(c.iv)
	binary.BigEndian.PutUint64(nonce[4:], binary.BigEndian.Uint64(nonce[4:])^c.seq)
	c.seq++
	return c.aead.Seal(header, nonce, inner, header)
}

func (c *records) data(payload string) []byte { return c.record(23, payload) }

func (c *records) closeNotify() []byte { return c.record(21, "\x01\x00") }

// keyUpdate returns a KeyUpdate (RFC 8446, section 4.6.3). The next record has the
// new key.
func (c *records) keyUpdate(requested bool) []byte {
	message := "\x18\x00\x00\x01\x00"
	if requested {
		message = "\x18\x00\x00\x01\x01"
	}
	out := c.record(22, message)
	c.key(c.expand(c.secret, "traffic upd", sha256.Size))
	return out
}

func (c *records) send(p []byte) {
	c.t.Helper()
	_, err := c.client.Socket().Write(p)
	require.NoError(c.t, err)
}

var tlsClient = testkit.Link{Name: "TLS client", TLSClient: true}

func TestTLSRecordsArriveHoweverTheyAreCut(t *testing.T) {
	t.Parallel()
	r := tlsClient.Start(t, nil)
	c, server := recordTunnel(t, r)
	for _, b := range c.data("a byte at a time") {
		c.send([]byte{b})
	}
	server.Expect(t, "a byte at a time")

	three := append(append(c.data("one"), c.data("two")...), c.data("three")...)
	c.send(three)
	server.Expect(t, "onetwothree")

	// The end of one record comes together with the beginning of the next.
	first, second := c.data("first"), c.data("second")
	c.send(first[:10])
	c.send(append(first[10:], second[:10]...))
	server.Expect(t, "first")
	c.send(second[10:])
	server.Expect(t, "second")

	large := string(testkit.Noise(1, 16<<10))
	for range 8 {
		c.send(append(append(c.data(large), c.data("")...), c.data(large)...))
		server.Expect(t, large+large)
	}
	c.send(c.data("end"))
	server.Expect(t, "end")
	server.Send(t, "back")
	c.client.Expect(t, "back")
}

// A client that stops in the middle of a record may occupy a goroutine, as a TLS
// connection does anywhere. It must not be one that others need.
func TestHalvesOfRecordsDelayNobody(t *testing.T) {
	t.Parallel()
	r := tlsClient.Start(t, nil, wsproxy.WithDetached())
	halves := halfRecords(t, r, testkit.Scale(20, 200))
	client, server := r.Tunnel(t)
	for range 10 {
		client.Send(t, "ping")
		server.Expect(t, "ping")
		server.Send(t, "pong")
		client.Expect(t, "pong")
	}
	completeRecords(t, halves)
}

// A record of which only a part had come held a goroutine, with some 35 kB of stack
// and buffer. A client could make the proxy hold any number of them, for a byte each.
func TestHalvesOfRecordsHoldALimitedNumberOfGoroutines(t *testing.T) {
	holdFewGoroutines(t, 40, func(*halfRecord) {})
}

// holdFewGoroutines opens more tunnels with half a record than a goroutine may wait
// for, calls each for all of them, and awaits that few goroutines are left.
func holdFewGoroutines(t *testing.T, beyond int, each func(*halfRecord)) {
	t.Helper()
	if !crews() {
		t.Skip("a goroutine reads each connection here")
	}
	fewProcessors(t)
	r := tlsClient.Start(t, nil, wsproxy.WithDetached())
	r.Tunnel(t) // its loop and workers stay
	before := runtime.NumGoroutine()
	most := before + 100*runtime.GOMAXPROCS(0) // each loop has a limit of 64, and exceeds it a little
	halves := halfRecords(t, r, most-before+beyond)
	for i := range halves {
		each(&halves[i])
	}
	testkit.Eventually(t, func() bool { return runtime.NumGoroutine() <= most },
		"%d halves of records hold more than %d goroutines", len(halves), most-before)
	completeRecords(t, halves)
}

// Before, the next worker in turn was interrupted, also if it waited in a write. So
// beside many slow readers, many halves kept their goroutine.
func TestSlowReadersDoNotLiftTheLimitForHalvesOfRecords(t *testing.T) {
	if !crews() {
		t.Skip("a goroutine reads each connection here")
	}
	const slow = 80
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // one loop
	r := tlsClient.Start(t, nil, wsproxy.WithDetached(), wsproxy.WithDialContext(dialNarrow))
	r.Tunnel(t) // its loop and workers stay
	most := runtime.NumGoroutine() + slow
	for range slow {
		client, server := r.Tunnel(t)
		require.NoError(t, server.Conn.(*net.TCPConn).SetReadBuffer(4<<10))
		client.Send(t, strings.Repeat("x", 256<<10)) // more than the buffers between proxy and server hold
	}
	testkit.Eventually(t, func() bool { return runtime.NumGoroutine() > most-10 }, "the proxy's writes do not wait")
	halves := halfRecords(t, r, 100)
	testkit.Eventually(t, func() bool { return runtime.NumGoroutine() < most+20 },
		"%d goroutines for %d halves of records", runtime.NumGoroutine()-most, len(halves))
	completeRecords(t, halves)
}

// fewProcessors limits the number of loops, for tests that fill each of them.
func fewProcessors(t *testing.T) {
	before := runtime.GOMAXPROCS(min(runtime.GOMAXPROCS(0), 4))
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
}

// A halfRecord is a tunnel whose client has sent half a record.
type halfRecord struct {
	*records
	rest   []byte
	server *testkit.Peer
}

func halfRecords(t *testing.T, r *testkit.Rig, n int) (halves []halfRecord) {
	for range n {
		c, server := recordTunnel(t, r)
		record := c.data("whole")
		c.send(record[:len(record)/2])
		halves = append(halves, halfRecord{c, record[len(record)/2:], server})
	}
	return halves
}

// completeRecords sends the rest of each record, after a message the other way.
func completeRecords(t *testing.T, halves []halfRecord) {
	for _, h := range halves { // the first may be as old as all handshakes took
		h.server.SetDeadline(time.Now().Add(testkit.Patience))
		h.client.SetDeadline(time.Now().Add(testkit.Patience))
		h.server.Send(t, "the other way")
		h.client.Expect(t, "the other way")
	}
	for _, h := range halves {
		h.send(h.rest)
	}
	for _, h := range halves {
		h.server.Expect(t, "whole")
	}
}

func TestAHalfRecordDoesNotKeepTheProxyFromClosing(t *testing.T) {
	t.Parallel()
	ended := testkit.NewEndings()
	r := tlsClient.Start(t, nil, ended.Option())
	c, server := recordTunnel(t, r)
	record := c.data("never")
	c.send(record[:len(record)/2])
	for tunnel := range r.Proxy.Tunnels() {
		require.NoError(t, tunnel.Close(4000, "now"))
	}
	_, toServer := testkit.Ends(c.client, server)
	assert.Equal(t, "now", toServer.ExpectClose(t, 4000))
	for tunnel := range r.Proxy.Tunnels() {
		tunnel.Cut()
	}
	assert.Equal(t, wsproxy.ReasonKilled, ended.Next(t).Reason)
}

func TestKeyUpdatesDoNotDisturbATunnel(t *testing.T) {
	t.Parallel()
	r := tlsClient.Start(t, nil)
	c, server := recordTunnel(t, r)
	other, otherServer := r.Tunnel(t)
	for i := range 20 {
		for _, end := range []*testkit.Peer{c.client, server, other, otherServer} {
			end.SetDeadline(time.Now().Add(testkit.Patience))
		}
		var flood []byte
		for range 10 { // crypto/tls allows 16 without data between them
			flood = append(flood, c.keyUpdate(i%2 == 0)...)
		}
		c.send(flood) // and no data, for which crypto/tls waits
		other.Send(t, "ping")
		otherServer.Expect(t, "ping")
		c.send(append(c.data("after "), append(c.keyUpdate(false), c.data("it")...)...))
		server.Expect(t, "after it")
		server.Send(t, "back")
		c.client.Expect(t, "back")
	}
}

// The client has said that nothing follows, so what follows is not read.
func TestBytesAfterCloseNotifyAreNotForwarded(t *testing.T) {
	t.Parallel()
	ended := testkit.NewEndings()
	r := tlsClient.Start(t, nil, ended.Option())
	c, server := recordTunnel(t, r)
	c.send(append(append(c.data("last"), c.closeNotify()...), c.data("more")...))
	server.ExpectEOF(t, "last")
	server.Send(t, "reply")
	c.client.Expect(t, "reply")
	server.Close()
	assert.Equal(t, wsproxy.ReasonClientClosed, ended.Next(t).Reason)
}
