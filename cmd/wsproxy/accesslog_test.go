package main

import (
	"bufio"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/require"
)

const lineTime = `^time=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\S+ `

// logged waits for n lines of the access log.
func (c *command) logged(t *testing.T, n int) []string {
	t.Helper()
	testkit.Eventually(t, func() bool { return strings.Count(c.stdout.String(), "\n") >= n }, "want %d lines: %s", n, c.stdout)
	return strings.Split(strings.TrimSuffix(c.stdout.String(), "\n"), "\n")
}

// The command logged tunnels at debug level only, among everything else.
func TestTheAccessLogHasTheStartAndTheEndOfATunnel(t *testing.T) {
	t.Parallel()
	url, conns := switches(t)
	c := start(t, "-listen", "127.0.0.1:0", "-access-log", "text", url)
	client, res := c.ask(t, "/chat?token=secret", upgradeFields+"Origin: https://example.com\r\nUser-Agent: Test 1.0\r\n")
	require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
	server := &peer{testkit.NewPeer(<-conns)}
	about := regexp.QuoteMeta(`route=/ id=1 client=127.0.0.1 host=` + c.addr + ` path=/chat protocol=websocket server=` + strings.TrimPrefix(url, "http://") + ` `)
	require.Regexp(t, lineTime+`msg="tunnel opened" `+about+`origin=https://example.com user_agent="Test 1.0"$`, c.logged(t, 1)[0])

	client.sendFrame(t, text, "hello")
	_, payload := server.frame(t)
	require.Equal(t, "hello", payload)
	client.sendFrame(t, closes, "\x03\xe8bye")
	server.wantClose(t, "\x03\xe8bye")
	server.reply(t, closes, "\x03\xe8")
	client.wantClose(t, "\x03\xe8")
	server.Close()
	client.Close()
	require.Regexp(t, lineTime+`msg="tunnel closed" `+about+`reason="client closed" client_close\.code=1000 client_close\.reason=bye `+
		`upstream_close\.code=1000 upstream_close\.reason="" handshake=\S+s lifetime=\S+s `+
		`from_client\.bytes=22 from_client\.messages=1 from_upstream\.bytes=4 from_upstream\.messages=0$`, c.logged(t, 2)[1])
}

func TestTheAccessLogHasEachRefusal(t *testing.T) {
	t.Parallel()
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	c := start(t, "-listen", "127.0.0.1:0", "-access-log", "text", "-trusted-proxy", "127.0.0.1", "-origin", "https://one.example", url)
	code, _ := c.get(t, "/", "")
	require.Equal(t, http.StatusTeapot, code, "a plain request, which has no line")
	c.ask(t, "/a?token=secret", upgradeFields+"Origin: https://two.example\r\nX-Forwarded-For: 192.0.2.1, 192.0.2.2\r\n")
	require.Regexp(t, lineTime+`msg="upgrade refused" route=/ client=127\.0\.0\.1 forwarded_for="192\.0\.2\.1, 192\.0\.2\.2" host=\S+ path=/a status=403 `+
		`error="\S.*" origin=https://two.example$`, c.logged(t, 1)[0])
	c.ask(t, "/b", upgradeFields)
	require.Regexp(t, lineTime+`msg="upgrade refused" route=/ client=127\.0\.0\.1 host=\S+ path=/b status=418$`, c.logged(t, 2)[1])
}

func TestTheAccessLogInJSON(t *testing.T) {
	t.Parallel()
	url, conns := switches(t)
	c := start(t, "-access-log", "json", "-route", "/ws="+url)
	client, res := c.ask(t, "/ws", upgradeFields)
	require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
	(<-conns).Close()
	client.Close()
	lines := c.logged(t, 2)
	var opened, closed map[string]any
	require.NoError(t, json.Unmarshal([]byte(lines[0]), &opened))
	require.NoError(t, json.Unmarshal([]byte(lines[1]), &closed))
	require.Equal(t, "tunnel opened", opened["msg"])
	require.NotContains(t, opened, "level")
	require.Equal(t, "tunnel closed", closed["msg"])
	for _, key := range []string{"route", "id", "client", "host", "path", "protocol", "server"} {
		require.NotEmpty(t, opened[key], key)
		require.Equal(t, opened[key], closed[key], key)
	}
	require.Equal(t, "/ws", closed["route"])
	require.Less(t, closed["lifetime"], testkit.Patience.Seconds(), "in seconds")
	require.Equal(t, map[string]any{"bytes": 0.0, "messages": 0.0}, closed["from_client"])
}

func TestWithoutTheFlagThereIsNoAccessLog(t *testing.T) {
	t.Parallel()
	url, conns := switches(t)
	c := start(t, "-log", "debug", url)
	client, server := c.tunnel(t, conns)
	client.Close()
	server.Close()
	c.forgets(t, 1)
	require.Empty(t, c.stdout.String())
}

// CWE-117: a path with a newline must not forge a line, and one with an escape
// sequence must not reach the terminal of the person who reads the log.
func TestAClientWritesNoLinesAndNoFloodInTheAccessLog(t *testing.T) {
	t.Parallel()
	url, conns := switches(t)
	c := start(t, "-access-log", "text", url)
	evil := `/a%0atime=2026-01-01T00:00:00.000Z%20msg=%22tunnel%20opened%22%1b%5b2J%9b%e2%80%ae` + strings.Repeat("%01", 8<<10)
	client, res := c.ask(t, evil, upgradeFields+"User-Agent: \t\"\xff\x9b"+strings.Repeat("x", 8<<10)+"\r\n")
	require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
	(<-conns).Close()
	client.Close()
	_, res = c.ask(t, evil, upgradeFields+"Content-Length: 1\r\n")
	require.Equal(t, http.StatusBadRequest, res.StatusCode)
	lines := c.logged(t, 3)
	require.Len(t, lines, 3)
	for _, line := range lines {
		require.Regexp(t, lineTime+`msg="(tunnel opened|tunnel closed|upgrade refused)" route=/ `, line)
		require.NotRegexp(t, `[^ -~…µ]`, line, "want printable characters only")
		require.Less(t, len(line), 5*2*maxLogged)
	}
}

// Lines were lost silently when the disk was full.
func TestAnAccessLogThatCannotBeWrittenIsAWarning(t *testing.T) {
	var stderr testkit.Buffer
	var fail error
	log := newAccessLog("text", writerFunc(func(p []byte) (int, error) { return len(p), fail }), slog.New(slog.NewTextHandler(&stderr, nil)), false)
	r := httptest.NewRequest("GET", "/", nil)
	for i, err := range []error{nil, syscall.ENOSPC, syscall.ENOSPC, nil, syscall.EPIPE} {
		fail = err
		log.refused("/", r, http.StatusForbidden, nil)
		require.Equal(t, []int{0, 1, 1, 1, 2}[i], strings.Count(stderr.String(), `level=WARN msg="cannot write the access log, losing its lines until that works" error=`))
	}
}

// Nobody read the access log, and then neither the end of -drain nor a second
// signal ended the command.
func TestAFullPipeDoesNotKeepTheCommandFromItsEnd(t *testing.T) {
	t.Parallel()
	url, conns := switches(t)
	r, stdout := io.Pipe()
	t.Cleanup(func() { r.Close() })
	signals, stderr, exited := make(chan os.Signal, 2), &testkit.Buffer{}, make(chan int)
	go func() {
		exited <- run(signals, []string{"-listen", "127.0.0.1:0", "-access-log", "text", "-drain", "0", url}, stdout, stderr)
	}()
	line, err := bufio.NewReader(r).ReadString('\n') // reads one write
	require.NoError(t, err)
	c := &command{}
	c.setURL(t, line)
	client := c.dial(t)
	_, err = io.WriteString(client, "GET / HTTP/1.1\r\nHost: x\r\n"+upgradeFields+"\r\n")
	require.NoError(t, err)
	defer func() { (<-conns).Close() }()
	_, err = io.ReadFull(r, make([]byte, 1)) // and no more of the line
	require.NoError(t, err)
	signals <- syscall.SIGTERM
	require.Equal(t, 1, testkit.Within(t, exited, "the exit"))
	require.Contains(t, stderr.String(), "wsproxy: cut 1 tunnel: standard output takes no more of the access log\n")
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
