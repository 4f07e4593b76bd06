package main

import (
	"flag"
	"go/parser"
	"go/token"
	"net"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// reference has the default of each flag and the beginning of its help text.
var reference = map[string]struct{ value, directives string }{
	"listen":             {"localhost:8080", "nginx listen"},
	"reuse-port":         {"false", "nginx listen reuseport"},
	"tls-cert":           {"", "nginx ssl_certificate"},
	"tls-key":            {"", "nginx ssl_certificate_key"},
	"http2":              {"false", "nginx http2"},
	"connect-timeout":    {"60s", "nginx proxy_connect_timeout"},
	"read-timeout":       {"60s", "nginx proxy_read_timeout"},
	"send-timeout":       {"60s", "nginx proxy_send_timeout and send_timeout"},
	"body-timeout":       {"60s", "nginx client_body_timeout"},
	"close-timeout":      {"10s", "no nginx directive (it closes both sides at the first end)"},
	"max-lifetime":       {"0", "no nginx directive"},
	"ping":               {"25s", "no nginx directive"},
	"ping-timeout":       {"10s", "no nginx directive"},
	"max-tunnels":        {"0", "nginx limit_conn over a whole server"},
	"max-tunnels-per-ip": {"0", "nginx limit_conn by $binary_remote_addr"},
	"max-message-size":   {"0", "no nginx directive"},
	"max-header-bytes":   {"65536", "nginx large_client_header_buffers"},
	"policy":             {"round-robin", "nginx least_conn, random two least_conn, ip_hash and hash"},
	"max-fails":          {"1", "nginx max_fails"},
	"fail-timeout":       {"10s", "nginx fail_timeout"},
	"max-tries":          {"3", "nginx proxy_next_upstream_tries"},
	"retry-status":       {"", "nginx proxy_next_upstream http_503 and its like"},
	"route":              {"", "nginx location"},
	"admin":              {"", "nginx stub_status"},
	"pprof":              {"false", "no nginx directive"},
	"access-log":         {"off", "nginx access_log"},
	"dns":                {"0", "nginx server name resolve"},
	"keep-alive":         {"false", "nginx keepalive, with '' in place of close in the map"},
	"origin":             {"", "no nginx directive (it takes an if on $http_origin)"},
	"trusted-proxy":      {"", "nginx set_real_ip_from, with real_ip_recursive on"},
	"target-ca":          {"", "nginx proxy_ssl_trusted_certificate"},
	"target-insecure":    {"false", "nginx proxy_ssl_verify off, its default"},
	"target-host":        {"false", "nginx proxy_set_header Host $proxy_host"},
	"header":             {"", "nginx proxy_set_header"},
	"detached":           {"false", "no nginx directive (its connections are always so)"},
	"drain":              {"30s", "nginx worker_shutdown_timeout"},
	"spread":             {"0", "no nginx directive (HAProxy close-spread-time)"},
	"log":                {"info", "nginx error_log's level"},
	"version":            {"false", "nginx -v"},
}

// allFlags returns the command's flags and checks that the reference has the same.
func allFlags(t *testing.T) map[string]*flag.Flag {
	t.Helper()
	flags := map[string]*flag.Flag{}
	flagSet(new(settings), new(values)).VisitAll(func(f *flag.Flag) {
		require.Contains(t, reference, f.Name)
		flags[f.Name] = f
	})
	require.Len(t, flags, len(reference))
	return flags
}

// docComment returns the text for each flag in the table of the package's doc
// comment.
func docComment(t *testing.T) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "main.go", nil, parser.ParseComments|parser.PackageClauseOnly)
	require.NoError(t, err)
	_, table, found := strings.Cut(file.Doc.Text(), "# Flags\n")
	require.True(t, found)
	table, _, _ = strings.Cut(table, "\n# ")

	const column = len("\t-tls-cert, -tls-key file ")
	name := regexp.MustCompile(`(?:^\t|, )-([a-z-]+)`)
	said := map[string]string{}
	var names [][]string
	for line := range strings.Lines(table) {
		if !strings.HasPrefix(line, "\t") {
			continue
		}
		if on := name.FindAllStringSubmatch(line[:column], -1); on != nil {
			names = on
		}
		for _, name := range names {
			said[name[1]] += line[column:]
		}
	}
	return said
}

func TestEveryFlagHasTheDefaultThatIsDocumented(t *testing.T) {
	said := docComment(t)
	require.Len(t, said, len(reference))
	brackets := regexp.MustCompile(`\((?:default )?(\S+?)(?:[:;] [^()]*)?\)\n$`)
	for name, f := range allFlags(t) {
		want := reference[name].value
		if want == "" || want == "false" { // is off, which needs no words
			require.Equal(t, want, f.DefValue, "-%s", name)
			require.NotRegexp(t, brackets, said[name], "-%s", name)
			continue
		}
		require.NoError(t, f.Value.Set(want)) // which makes 60s 1m0s
		require.Equal(t, f.Value.String(), f.DefValue, "-%s", name)
		require.Regexp(t, brackets, said[name], "-%s", name)
		require.Equal(t, want, brackets.FindStringSubmatch(said[name])[1], "-%s", name)
	}
}

func TestWithoutListenThisMachineAloneGetsIn(t *testing.T) {
	s, err := parse(nil)
	require.NoError(t, err)
	host, port, err := net.SplitHostPort(s.listen)
	require.NoError(t, err)
	require.Equal(t, "8080", port)
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0")) // 8080 may be taken
	require.NoError(t, err)
	defer l.Close()
	require.True(t, l.Addr().(*net.TCPAddr).IP.IsLoopback(), l.Addr())
}

func TestHelpNamesTheDirectiveThatEachFlagAnswersTo(t *testing.T) {
	code, stdout, stderr := status(t, "-h")
	require.Zero(t, code)
	require.Empty(t, stderr)
	for name, f := range allFlags(t) {
		entry := regexp.MustCompile(`(?s)\n  -` + name + `(?: [^\n]*)?\n    \t([^:]+): (.*?)\n(?:  -|\n|$)`).FindStringSubmatch(stdout)
		require.NotNil(t, entry, "-%s", name)
		require.Equal(t, reference[name].directives, entry[1], "-%s", name)
		if f.DefValue != "" && f.DefValue != "false" {
			require.Regexp(t, `\(default "?`+regexp.QuoteMeta(f.DefValue)+`"?\)$`, entry[2], "-%s", name)
		}
	}
}
