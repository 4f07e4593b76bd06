package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A row is a line of a table in the documentation.
type row struct {
	label, measure, metric string
	most                   bool // the greatest figure is the best
}

type column struct{ peer, head string }

var columns = []column{
	{"wsproxy", "wsproxy"}, {"wsproxy-detached", "detached"}, {"nginx", "nginx"}, {"haproxy", "HAProxy"}, {"caddy", "Caddy"}, {"httputil", "`httputil`"},
}

var readmeRows = []row{
	{"128 B, 64 connections, µs", "rt-128-64", "cpu", false},
	{"128 B, 1000 connections, µs", "rt-128-1000", "cpu", false},
	{"64 KiB, 16 connections, µs", "rt-64k-16", "cpu", false},
	{"a handshake, µs", "handshake", "cpu", false},
	{"idle tunnel, of 9,000, kB", "idle", "many", false},
}

var plainRows = []row{
	{"CPU per round trip, 128 B, 64 connections, µs", "rt-128-64", "cpu", false},
	{"… 1000 connections, µs", "rt-128-1000", "cpu", false},
	{"… 64 KiB, 16 connections, µs", "rt-64k-16", "cpu", false},
	{"… 1 MiB, 4 connections, µs", "rt-1m-4", "cpu", false},
	{"round trips/s, 64 KiB, 16 connections", "rt-64k-16", "rate", true},
	{"p50 at 1 connection, µs", "rt-128-1", "p50", false},
	{"stream of 64 KiB messages, MB/s", "stream", "mbps", true},
	{"stream of 128 B messages, MB/s", "stream-128", "mbps", true},
	{"CPU per handshake, µs", "handshake", "cpu", false},
	{"sessions: CPU per session, µs", "sessions", "cpu", false},
	{"… connecting, p95, µs", "sessions", "connect95", false},
	{"… message, p99, µs", "sessions", "p99", false},
	{"… by k6, on all cores: CPU per session, µs", "k6", "cpu", false},
	{"… connecting, p95, µs", "k6", "connect95", false},
	{"… message, p99, µs", "k6", "p99", false},
	{"storm of 8,000 clients: all open after, ms", "storm", "first", false},
	{"… all open again, ms", "storm", "again", false},
	{"… memory, MB", "storm", "memory", false},
	{"tail: p99 at 50 % of the most, µs", "tail", "p99-50", false},
	{"… p99.9, µs", "tail", "p999-50", false},
	{"… p99 at 80 %, µs", "tail", "p99-80", false},
	{"… p99.9 at 80 %, µs", "tail", "p999-80", false},
	{"all cores: round trips/s", "cores", "rate", true},
	{"… p99, µs", "cores", "p99", false},
	{"… round trips/s, every second connection idle", "skew", "rate", true},
	{"memory per idle tunnel, of 1,000, kB", "idle", "few", false},
	{"… of 9,000, kB", "idle", "many", false},
	{"… 3 s after they opened, with what handshakes left, kB", "idle", "fresh", false},
	{"CPU of 9,000 idle tunnels, ms/s", "idle", "cpu", false},
}

var tlsRows = []row{
	{"CPU per round trip, 128 B, 64 connections, µs", "rt-128-64", "cpu", false},
	{"… 1000 connections, µs", "rt-128-1000", "cpu", false},
	{"… 64 KiB, 16 connections, µs", "rt-64k-16", "cpu", false},
	{"… 1 MiB, 4 connections, µs", "rt-1m-4", "cpu", false},
	{"stream of 64 KiB messages, MB/s", "stream", "mbps", true},
	{"CPU per handshake, µs", "handshake", "cpu", false},
	{"memory per idle tunnel, of 9,000, kB", "idle", "many", false},
	{"… 3 s after they opened, with what handshakes left, kB", "idle", "fresh", false},
}

var http2Rows = []row{
	{"CPU per round trip, 128 B, 64 tunnels, µs", "h2-rt-128-64", "cpu", false},
	{"… 1000 tunnels, µs", "h2-rt-128-1000", "cpu", false},
	{"CPU per handshake, µs", "h2-handshake", "cpu", false},
	{"memory per idle tunnel, of 64, kB", "h2-idle", "few", false},
	{"… of 1000, kB", "h2-idle", "many", false},
}

// table returns rows as Markdown. The best figures of a row are bold. Rows and
// columns without figures are left out.
func (r *report) table(head, transport string, rows []row) string {
	columns := slices.DeleteFunc(slices.Clone(columns), func(c column) bool {
		return !slices.ContainsFunc(rows, func(row row) bool {
			_, ok := r.figure(cell{transport, row.measure, row.metric, c.peer})
			return ok
		})
	})
	var b strings.Builder
	b.WriteString("| " + head + " |")
	for _, c := range columns {
		b.WriteString(" " + c.head + " |")
	}
	b.WriteString("\n|" + strings.Repeat("---|", len(columns)+1) + "\n")
	for _, row := range rows {
		texts := make([]string, len(columns))
		best, any := 0.0, false
		for i, c := range columns {
			s, ok := r.figure(cell{transport, row.measure, row.metric, c.peer})
			if texts[i] = "–"; ok {
				texts[i] = significant(s.Median)
				if !any || s.Median < best != row.most {
					best, any = s.Median, true
				}
			}
		}
		if !any {
			continue
		}
		b.WriteString("| " + row.label + " |")
		for _, text := range texts {
			if text == significant(best) {
				text = "**" + text + "**"
			}
			b.WriteString(" " + text + " |")
		}
		b.WriteString("\n")
	}
	return b.String()
}

// targetTable returns the targets as Markdown.
func (r *report) targetTable() string {
	var b strings.Builder
	b.WriteString("| target | | against | bound | |\n|---|---|---|---|---|\n")
	for _, v := range r.Verdicts {
		sign, word, label := "≤", "met", v.Target
		if v.Least {
			sign = "≥"
		}
		if !v.Met {
			word = "**missed**"
		}
		if v.Transport == "tls" {
			label += ", TLS"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s %.2f | %s |\n", label, significant(v.Value), v.Against, sign, v.Bound, word)
	}
	return b.String()
}

// writeTables prints the tables of the results in dir, and puts each in its place
// in the documentation: between two comments that name it.
func writeTables(dir, root string) error {
	text, err := os.ReadFile(filepath.Join(dir, "results.json"))
	if err != nil {
		return err
	}
	var r report
	if err := json.Unmarshal(text, &r); err != nil {
		return err
	}
	if r.Quick {
		return fmt.Errorf("the results in %s are of a quick run", dir)
	}
	for _, t := range []struct{ file, name, text string }{
		{"README.md", "figures", r.table("", "plain", readmeRows)},
		{"docs/benchmarks.md", "plain", r.table("plain TCP", "plain", plainRows)},
		{"docs/benchmarks.md", "tls", r.table("TLS to the proxy, plain behind it", "tls", tlsRows)},
		{"docs/benchmarks.md", "targets", r.targetTable()},
		{"docs/http2.md", "h2", r.table("HTTP/2 over TLS", "h2", http2Rows)},
	} {
		fmt.Printf("%s, %s:\n\n%s\n", t.file, t.name, t.text)
		path := filepath.Join(root, t.file)
		old, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		text, err := replaceBetween(string(old), "<!--bench:"+t.name+"-->\n", "<!--bench:end-->\n", t.text)
		if err != nil {
			return fmt.Errorf("%s: %w", t.file, err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// replaceBetween replaces the text between two marks.
func replaceBetween(text, from, to, with string) (string, error) {
	before, rest, ok := strings.Cut(text, from)
	if !ok {
		return "", fmt.Errorf("there is no %q", strings.TrimSpace(from))
	}
	_, after, ok := strings.Cut(rest, to)
	if !ok {
		return "", fmt.Errorf("nothing ends %q", strings.TrimSpace(from))
	}
	return before + from + with + to + after, nil
}

// measured reports whether each row has a measure with its metric.
func measured(rows []row) error {
	for _, row := range rows {
		i := slices.IndexFunc(measures, func(m measure) bool { return m.name == row.measure })
		if i < 0 || !slices.ContainsFunc(measures[i].metrics, func(m metric) bool { return m.name == row.metric }) {
			return fmt.Errorf("nothing measures %s, %s", row.measure, row.metric)
		}
	}
	return nil
}
