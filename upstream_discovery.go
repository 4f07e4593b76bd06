package wsproxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"
)

// A Resolver finds the servers of an Upstream, for [Upstream.Watch]: [DNS],
// [DNSSRV], or a registry of your own.
type Resolver interface {
	// Resolve returns all servers there are now, and after what time to ask
	// again: at once where that is zero, for a Resolve that waits for a change
	// itself. It returns early when ctx ends. Its other errors, and an empty
	// result, leave the servers as they are.
	Resolve(ctx context.Context) (servers []Server, again time.Duration, err error)
}

// retryLookup is the least time from a lookup that failed to the next.
const retryLookup = time.Second

// Watch keeps the servers of u as r finds them: at once, and until ctx ends,
// for which it blocks; run it in a goroutine of its own. A lookup that fails,
// finds no server or finds what [Upstream.SetServers] refuses is logged, to
// [slog.Default], and the last good set stays. Of an Upstream only one Watch
// should run, and nobody else set its servers.
//
// The error is ctx's. An Upstream is made with servers, so the first lookup is
// the caller's, who decides whether to start where it fails:
//
//	r := wsproxy.DNS("chat.default.svc.cluster.local", 8080, 5*time.Second)
//	servers, _, err := r.Resolve(ctx)
//	...
//	u, err := wsproxy.NewUpstream(wsproxy.HashByClientIP(), servers...)
//	...
//	go u.Watch(ctx, r)
//
// It is nginx's "server name resolve".
func (u *Upstream) Watch(ctx context.Context, r Resolver) error {
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
			slog.WarnContext(ctx, "servers not found, keeping the last ones", "error", err)
		}
		select {
		case <-time.After(again):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// A DNSResolver is a [Resolver] that asks DNS. Make one with [DNS] or
// [DNSSRV]; its fields may be set before its first use and must not be
// changed after.
type DNSResolver struct {
	// Resolver is what asks. Nil means [net.DefaultResolver].
	Resolver *net.Resolver

	// Server is what all servers are like. Its Addr is not used, and with
	// DNSSRV neither are its Weight and Backup.
	Server Server

	interval time.Duration
	lookup   func(ctx context.Context, r *net.Resolver, like Server) ([]Server, error)
}

// lookupTimeout bounds all lookups of one Resolve: nginx's resolver_timeout.
const lookupTimeout = 30 * time.Second

// maxServers is how many servers one DNSSRV may find: each is looked at for
// each request, and each record may be a lookup.
const maxServers = 1024

// defaultInterval follows a rollout closely and is no load for a DNS server.
const defaultInterval = 5 * time.Second

// DNS returns a Resolver for the addresses of name, IPv4 and IPv6, at port,
// asked for again after each interval; [net.Resolver] does not tell how long an
// answer is good for. The names of a Kubernetes headless Service and of a
// Consul service are such. An interval that is not positive means 5 seconds.
// A Resolve fails after 30 seconds.
func DNS(name string, port int, interval time.Duration) *DNSResolver {
	return &DNSResolver{interval: interval, lookup: func(ctx context.Context, r *net.Resolver, like Server) ([]Server, error) {
		return lookupHost(ctx, r, name, port, like)
	}}
}

// DNSSRV returns a Resolver for the SRV records of a service, such as "ws",
// "tcp", "chat.example.com", with their ports and weights; those of the lowest
// priority number are primaries, all others backups. With service and proto
// empty, name is asked for as it is. A host of several addresses is as many
// servers, each of the record's weight; one that does not exist is left out. A
// weight of 0 becomes 1. A Resolve fails if all its lookups together take more
// than 30 seconds, or if they find more than 1024 records or servers. For
// interval see [DNS].
func DNSSRV(service, proto, name string, interval time.Duration) *DNSResolver {
	return &DNSResolver{interval: interval, lookup: func(ctx context.Context, r *net.Resolver, like Server) ([]Server, error) {
		return lookupSRV(ctx, r, service, proto, name, like)
	}}
}

// Resolve implements [Resolver]. The servers come in the order of their
// addresses.
func (d *DNSResolver) Resolve(ctx context.Context) ([]Server, time.Duration, error) {
	r := d.Resolver
	if r == nil {
		r = net.DefaultResolver
	}
	interval := d.interval
	if interval <= 0 {
		interval = defaultInterval
	}
	lookups, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	servers, err := d.lookup(lookups, r, d.Server)
	if err != nil && lookups.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("the lookups took more than %v: %w", lookupTimeout, err)
	}
	if err != nil {
		return nil, interval, fmt.Errorf("wsproxy: %w", err)
	}
	// An address that is there twice is a primary, if it is one at all.
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
