package wsproxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"
)

// A Resolver finds the servers of an Upstream, for [Upstream.Watch]: [DNS],
// [DNSSRV], or a registry of your own.
type Resolver interface {
	// Resolve returns all current servers, and after what time to ask again. A
	// Resolve that waits for a change itself returns zero. Resolve returns early
	// when ctx ends. Its other errors, and an empty result, leave the servers as
	// they are.
	Resolve(ctx context.Context) (servers []Server, again time.Duration, err error)
}

// retryLookup is the least time from a lookup that failed to the next.
const retryLookup = time.Second

// Watch updates u's servers from r, at once and until ctx ends. It blocks: run
// it in a separate goroutine. If a lookup fails, finds no server or finds what
// [Upstream.SetServers] refuses, the last good set stays, and Watch calls failed
// with the error, on its own goroutine. If failed is nil, the error is dropped. Only
// one Watch should run for an Upstream, and nothing else should set its servers.
//
// Watch returns ctx's error. An Upstream is made with servers, so the first
// lookup is the caller's, who decides whether to start without them:
//
//	r := wsproxy.DNS{Name: "chat.default.svc.cluster.local", Port: 8080}
//	servers, _, err := r.Resolve(ctx)
//	...
//	u, err := wsproxy.NewUpstream(wsproxy.HashByClientIP(), servers...)
//	...
//	go u.Watch(ctx, r, func(err error) { logger.Warn("servers not found", "error", err) })
//
// It is nginx's "server name resolve".
func (u *Upstream) Watch(ctx context.Context, r Resolver, failed func(error)) error {
	for {
		servers, again, err := r.Resolve(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil {
			err = u.SetServers(servers...)
		}
		if err != nil {
			again = max(again, retryLookup)
			if failed != nil {
				failed(err)
			}
		}
		select {
		case <-time.After(again):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// lookupTimeout bounds all lookups of one Resolve: nginx's resolver_timeout.
const lookupTimeout = 30 * time.Second

// maxServers is how many servers one DNSSRV may find: each is looked at for
// each request, and each record may be a lookup.
const maxServers = 1024

// defaultInterval follows a rollout closely and is no load for a DNS server.
const defaultInterval = 5 * time.Second

// DNS is a [Resolver] for the addresses of a name, IPv4 and IPv6. The names of a
// Kubernetes headless Service and of a Consul service are such.
type DNS struct {
	Name string
	Port int // of each server, 1 to 65535

	// Interval is the time between two lookups. [net.Resolver] does not tell how
	// long an answer is valid. Zero or less means 5 seconds.
	Interval time.Duration

	// Resolver makes the lookups. Nil means [net.DefaultResolver].
	Resolver *net.Resolver

	// Server is what all servers are like. Its Addr is not used.
	Server Server
}

// Resolve implements [Resolver]. The servers are sorted by address. It fails
// after 30 seconds.
func (d DNS) Resolve(ctx context.Context) ([]Server, time.Duration, error) {
	return resolve(ctx, d.Interval, func(ctx context.Context) ([]Server, error) {
		return lookupHost(ctx, cmp.Or(d.Resolver, net.DefaultResolver), d.Name, d.Port, d.Server)
	})
}

// DNSSRV is a [Resolver] for the SRV records of a service, with their ports and
// weights. Records of the lowest priority number are primaries, all others
// backups. A weight of 0 becomes 1. A host of several addresses is as many
// servers, each of the record's weight. A host that does not exist is left out.
type DNSSRV struct {
	// Service, Proto and Name are such as "ws", "tcp" and "chat.example.com". If
	// Service and Proto are empty, Name is looked up as it is.
	Service, Proto, Name string

	// Interval and Resolver are as in [DNS].
	Interval time.Duration
	Resolver *net.Resolver

	// Server is what all servers are like. Its Addr, Weight and Backup are not
	// used.
	Server Server
}

// Resolve implements [Resolver]. The servers are sorted by address. It fails if
// all its lookups together take more than 30 seconds, or if they find more than
// 1024 records or servers.
func (d DNSSRV) Resolve(ctx context.Context) ([]Server, time.Duration, error) {
	return resolve(ctx, d.Interval, func(ctx context.Context) ([]Server, error) {
		return lookupSRV(ctx, cmp.Or(d.Resolver, net.DefaultResolver), d.Service, d.Proto, d.Name, d.Server)
	})
}

// resolve bounds a lookup, and sorts what it finds.
func resolve(ctx context.Context, interval time.Duration, lookup func(context.Context) ([]Server, error)) ([]Server, time.Duration, error) {
	if interval <= 0 {
		interval = defaultInterval
	}
	lookups, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	servers, err := lookup(lookups)
	if err != nil && lookups.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("the lookups took more than %v: %w", lookupTimeout, err)
	}
	if err != nil {
		return nil, interval, fmt.Errorf("wsproxy: %w", err)
	}
	// An address that is found twice is a primary, if it is one at all.
	slices.SortFunc(servers, func(a, b Server) int {
		return cmp.Or(cmp.Compare(a.Addr, b.Addr), cmp.Compare(btoi(a.Backup), btoi(b.Backup)), cmp.Compare(b.Weight, a.Weight))
	})
	servers = slices.CompactFunc(servers, func(a, b Server) bool { return a.Addr == b.Addr })
	return servers, interval, nil
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func lookupHost(ctx context.Context, r *net.Resolver, name string, port int, like Server) ([]Server, error) {
	if port < 1 || port > 65535 {
		return nil, fmt.Errorf("port \"%d\" of %q, want 1 to 65535", port, name)
	}
	addrs, err := r.LookupNetIP(ctx, "ip", name)
	if err != nil {
		return nil, err
	}
	servers := make([]Server, len(addrs))
	for i, addr := range addrs {
		servers[i] = like
		servers[i].Addr = netip.AddrPortFrom(addr.Unmap(), uint16(port)).String()
	}
	return servers, nil
}

func lookupSRV(ctx context.Context, r *net.Resolver, service, proto, name string, like Server) ([]Server, error) {
	_, records, err := r.LookupSRV(ctx, service, proto, name)
	if len(records) == 0 {
		return nil, err // with some it is about others, whose names are not legal
	}
	if len(records) > maxServers {
		return nil, fmt.Errorf("%s has %d SRV records, want at most %d", name, len(records), maxServers)
	}
	var servers []Server
	for _, record := range records {
		like.Weight = max(int(record.Weight), 1)
		like.Backup = record.Priority > records[0].Priority // they come sorted
		hosts, err := lookupHost(ctx, r, record.Target, int(record.Port), like)
		var missing *net.DNSError
		if errors.As(err, &missing) && missing.IsNotFound {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", net.JoinHostPort(record.Target, strconv.Itoa(int(record.Port))), err)
		}
		if servers = append(servers, hosts...); len(servers) > maxServers {
			return nil, fmt.Errorf("the SRV records of %s have more than %d servers", name, maxServers)
		}
	}
	return servers, nil
}
