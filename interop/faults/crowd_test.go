//go:build linux

package faults_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/wsproxy/internal/testkit"
	"github.com/gobwas/ws"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestACrowdThatConnectsAtOnceIsServedOrRefusedClearly(t *testing.T) {
	const long = time.Minute
	for _, c := range []struct {
		name             string
		clients, allowed int
		role
	}{
		{"5000 over plain TCP", 5000, 5000, role{}},
		{"5000 where 4000 may, detached", 5000, 4000, role{MaxTunnels: 4000, Detached: true}},
		{"500 over TLS", 500, 500, role{TLS: true}},
	} {
		if raceDetector {
			c.clients, c.allowed, c.MaxTunnels = c.clients/5, c.allowed/5, c.MaxTunnels/5
		}
		t.Run(c.name, func(t *testing.T) {
			var limit unix.Rlimit
			require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
			if need := uint64(2*c.clients + 100); limit.Max < need {
				testkit.Missing(t, "a process may open %d files, %d clients need %d", limit.Max, c.clients, need)
			}
			p, up := startPair(t, c.role)
			var served, refused atomic.Int64
			var responded, all sync.WaitGroup
			responded.Add(c.clients)
			begin := make(chan struct{})
			one := func() error {
				once := sync.OnceFunc(responded.Done)
				defer once()
				<-begin
				client, err := p.raw()
				if err != nil {
					return err
				}
				defer client.Close()
				client.SetDeadline(time.Now().Add(long))
				err = client.upgrade("/echo")
				if err == ws.StatusError(503) {
					refused.Add(1)
					return nil
				}
				if err != nil {
					return err
				}
				served.Add(1)
				once()
				responded.Wait() // all tunnels are open at the same time
				if _, err := client.Write(masked(ws.NewTextFrame([]byte("hello")))); err != nil {
					return err
				}
				f, err := testkit.ReadFrame(client.r)
				if err == nil && f.Payload != "hello" {
					err = fmt.Errorf("echoed %q", f.Payload)
				}
				client.tcp.SetLinger(0) // leaves no port in TIME_WAIT
				return err
			}
			var errs atomic.Int64
			for range c.clients {
				all.Go(func() {
					if err := one(); err != nil && errs.Add(1) < 10 {
						t.Error(err)
					}
				})
			}
			began := time.Now()
			close(begin)
			responded.Wait()
			took := time.Since(began)
			all.Wait()
			t.Logf("%d served, %d refused after %v, all gone after %v", served.Load(), refused.Load(), took, time.Since(began))
			require.Zero(t, errs.Load(), "clients with neither a tunnel nor a response")
			assert.EqualValues(t, c.allowed, served.Load(), "served")
			assert.EqualValues(t, c.clients-c.allowed, refused.Load(), "refused with 503")
			settled(t, p, up)
		})
	}
}
