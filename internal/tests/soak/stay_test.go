package soak_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
)

// stayPath is the path of the tunnels that stay open for a whole run.
const stayPath = "/stay"

// stays returns how many tunnels of each kind stay.
func stays() int {
	if soakIsLong() {
		return 20
	}
	return 1
}

// stay runs the tunnels that stay until ctx ends.
func (s *soak) stay(ctx context.Context, workers *sync.WaitGroup) {
	for _, k := range s.kinds {
		for range stays() {
			if k.HTTP2 != nil {
				continue
			}
			workers.Go(func() {
				if err := s.stayOpen(ctx, k); err != nil {
					s.fail("%s: a tunnel that stays: %v", k.name, err)
				}
			})
		}
	}
}

// stayOpen opens a tunnel, has messages echoed with pauses, and closes the tunnel
// when ctx ends.
func (s *soak) stayOpen(ctx context.Context, k *soakKind) error {
	conn, err := net.DialTimeout("tcp", k.Addr, soakPatience)
	if err != nil {
		return err
	}
	defer conn.Close()
	if k.TLS != nil {
		conn = tls.Client(conn, k.TLS)
	}
	client := testkit.End{Peer: testkit.NewPeer(conn), Client: true}
	client.SetDeadline(time.Now().Add(soakPatience))
	if _, err := io.WriteString(client, strings.Replace(testkit.SampleRequest, "/chat", stayPath, 1)); err != nil {
		return err
	}
	res, err := http.ReadResponse(client.Reader, nil)
	if err := refusal(res, err, http.StatusSwitchingProtocols); err != nil {
		return err
	}
	s.stays.Add(1)
	for n := 1; ; n++ {
		first, payload := byte(testkit.Text), fmt.Sprintf("message %d%*s", n, rand.N(4096), "")
		if ctx.Err() != nil {
			first, payload = testkit.Close, testkit.ClosePayload(1000, "")
		}
		client.SetDeadline(time.Now().Add(soakPatience))
		if _, err := io.WriteString(client, client.Frame(first, payload)); err != nil {
			return err
		}
		f, err := readData(client)
		if want := (testkit.Frame{First: first, Payload: payload}); err != nil || f != want {
			return fmt.Errorf("message %d came back as %.20q, %v", n, f.Payload, err)
		}
		if first == testkit.Close {
			return nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(rand.N(time.Second)):
		}
	}
}

// echo plays the upstream's end of a tunnel that stays.
func (s *soak) echo(conn *testkit.Peer) {
	defer conn.Close()
	io.WriteString(conn, testkit.SampleSwitch)
	for {
		conn.SetDeadline(time.Now().Add(soakPatience))
		f, err := readData(conn)
		if err != nil {
			s.fail("the upstream of a tunnel that stays: %v", err)
			return
		}
		f.Masked = false
		if io.WriteString(conn, f.String()); f.First == testkit.Close {
			return
		}
	}
}

// readData returns the next frame that is neither a Ping nor a Pong. A Ping needs no
// Pong here, because a message follows within a second.
func readData(r io.Reader) (testkit.Frame, error) {
	for {
		f, err := testkit.ReadFrame(r)
		if err != nil || f.First != testkit.Ping && f.First != testkit.Pong {
			return f, err
		}
	}
}

func (s *soak) judgeStay(ending wsproxy.Ending) {
	if ending.Reason != wsproxy.ReasonClientClosed || ending.Err != nil || ending.ClientClose.Code != 1000 || ending.UpstreamClose.Code != 1000 {
		s.fail("a tunnel that stayed ended with %+v", ending)
	}
}

// begun returns how many tunnels have begun.
func (s *soak) begun() int64 { return int64(s.last.Load()) + s.stays.Load() }
