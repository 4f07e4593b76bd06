// Bench measures wsproxy beside other WebSocket proxies on the machine it runs
// on. One command does it all:
//
//	go run .
//
// It starts an echo upstream, a load generator and one proxy after another,
// each in its own process. On a machine with two or more cores, the proxy is
// pinned to one core, and load and upstream to another. It prints a table, and
// writes results.json and plots to the directory of -out.
//
// The peers are nginx with the well-known recipe and HAProxy, if they are
// installed, and Caddy and httputil.ReverseProxy, which are built into this
// program. The peer "direct" is no proxy at all. It shows the limit of load and
// upstream. The peer "floor" does only what a proxy over net/http must do for a
// handshake. wsproxy runs twice, blocking and detached. -peers can add the portable
// relay, which is then built with the tag wsproxy_portable. Over HTTP/2 the peers are
// wsproxy, HAProxy and Caddy.
//
// Every sample uses a new proxy. The peers take turns within each measure, so
// that other load on the machine affects all of them. The table shows medians
// over the rounds, and ratios of figures of the same round. CPU is the kernel's
// count for all processes of the proxy. Memory is the growth of the proxy's PSS
// through idle tunnels. Go programs first return the memory that they have freed,
// which they otherwise do after some minutes.
package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// settings are the command line.
type settings struct {
	quick   bool
	rounds  int
	window  time.Duration
	peers   []string
	only    []string
	tls     string
	out     string
	verbose bool
	tables  bool
	k6      bool
}

func parseFlags(args []string) (settings, error) {
	var s settings
	var peers, only string
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.BoolVar(&s.quick, "quick", false, "a smoke run of some seconds; its figures mean nothing")
	flags.IntVar(&s.rounds, "rounds", 5, "how often each sample is taken")
	flags.DurationVar(&s.window, "time", time.Second, "how long a sample of traffic takes")
	flags.StringVar(&peers, "peers", strings.Join(defaultPeers, ","), "the peers to run; "+portablePeer+" may be added")
	flags.StringVar(&only, "only", "", "run only measures whose name contains one of these, separated by commas: "+strings.Join(measureNames(), ", "))
	flags.StringVar(&s.tls, "tls", "both", "plain, tls, h2 (HTTP/2 over TLS), or both for all of them")
	flags.StringVar(&s.out, "out", "results", "the directory for results.json and the plots; with -quick, results/quick")
	flags.BoolVar(&s.k6, "k6", false, "also run the sessions by k6; building k6 takes minutes and the network the first time")
	flags.BoolVar(&s.verbose, "v", false, "print every sample")
	flags.BoolVar(&s.tables, "tables", false, "run nothing: print the tables of the results in -out, and write them into ../README.md, ../docs/benchmarks.md and ../docs/http2.md")
	if err := flags.Parse(args); err != nil {
		return s, err
	}
	if s.quick && s.out == flags.Lookup("out").DefValue {
		s.out += "/quick" // does not overwrite full results
	}
	s.peers = split(peers)
	s.only = split(only)
	for _, name := range s.peers {
		if name != portablePeer && !slices.Contains(defaultPeers, name) {
			return s, fmt.Errorf("unknown peer %q", name)
		}
	}
	switch {
	case flags.NArg() > 0:
		return s, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case s.rounds < 1:
		return s, fmt.Errorf("-rounds is %d, want 1 or more", s.rounds)
	case s.window <= 0:
		return s, fmt.Errorf("-time is %v, want more than 0", s.window)
	case !slices.Contains([]string{"plain", "tls", "h2", "both"}, s.tls):
		return s, fmt.Errorf("-tls is %q, want plain, tls, h2 or both", s.tls)
	case len(s.selected()) == 0:
		return s, fmt.Errorf("-only %q names no measure", only)
	}
	if s.quick {
		s.rounds, s.window = 1, 20*time.Millisecond
	}
	return s, nil
}

// split splits a list. An empty string is an empty list.
func split(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
}

// transports returns plain, tls, h2 or all of them.
func (s settings) transports() []string {
	if s.tls == "both" {
		return []string{"plain", "tls", "h2"}
	}
	return []string{s.tls}
}

// selected returns the measures to take.
func (s settings) selected() []measure {
	var chosen []measure
	for _, m := range measures {
		if m.kind == "k6" && !s.k6 {
			continue
		}
		if len(s.only) == 0 || slices.ContainsFunc(s.only, func(part string) bool { return strings.Contains(m.name, part) }) {
			chosen = append(chosen, m)
		}
	}
	return chosen
}

func main() {
	if len(os.Args) > 2 && os.Args[1] == "-role" {
		exit(runRole(os.Args[2], os.Args[3:]))
	}
	s, err := parseFlags(os.Args[1:])
	if err == flag.ErrHelp {
		return
	}
	switch {
	case err != nil:
	case s.tables:
		err = writeTables(s.out, "..")
	default:
		err = run(s)
	}
	exit(err)
}

// exit ends the process and prints err, if any.
func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}
