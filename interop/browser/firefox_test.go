package browser_test

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/interop/internal/lab"
	"example.com/wsproxy/interop/internal/talk"
	"github.com/coder/websocket"
	"github.com/coder/websocket/wsjson"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A firefox is one tab, driven by WebDriver BiDi.
type firefox struct {
	conn *websocket.Conn
	id   int
	tab  string
}

// startFirefox runs Firefox with a profile of its own until the test's end.
func startFirefox(t *testing.T) *firefox {
	t.Helper()
	program := testkit.Program(t, "firefox-esr")
	profile := t.TempDir()
	prefs := `user_pref("app.update.enabled", false); user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("network.captive-portal-service.enabled", false); user_pref("network.connectivity-service.enabled", false);
user_pref("browser.safebrowsing.downloads.remote.enabled", false); user_pref("services.settings.server", "http://127.0.0.1:1");
`
	require.NoError(t, os.WriteFile(filepath.Join(profile, "user.js"), []byte(prefs), 0o600))
	ours, theirs, err := os.Pipe()
	require.NoError(t, err)
	t.Cleanup(func() { ours.Close() })
	cmd := exec.Command(program, "--headless", "--no-remote", "--profile", profile, "--remote-debugging-port", "0")
	cmd.Env = append(os.Environ(), "HOME="+profile)
	cmd.Stderr = theirs
	lab.Start(t, cmd)
	theirs.Close()

	found := make(chan string, 1)
	go func() {
		for lines := bufio.NewScanner(ours); lines.Scan(); {
			if _, url, ok := strings.Cut(lines.Text(), "listening on "); ok {
				found <- url
				break
			}
		}
		io.Copy(io.Discard, ours)
	}()
	var url string
	select {
	case url = <-found:
	case <-time.After(3 * testkit.Patience): // a browser starts many processes
		t.Fatal("Firefox does not tell the address of WebDriver BiDi")
	}
	conn, _, err := websocket.Dial(t.Context(), url+"/session", nil)
	require.NoError(t, err)
	conn.SetReadLimit(-1)
	t.Cleanup(func() { conn.CloseNow() })
	f := &firefox{conn: conn}
	f.do(t, "session.new", `{"capabilities": {"alwaysMatch": {"acceptInsecureCerts": true}}}`, nil)
	var tree struct {
		Contexts []struct {
			Context string `json:"context"`
		} `json:"contexts"`
	}
	f.do(t, "browsingContext.getTree", `{}`, &tree)
	require.NotEmpty(t, tree.Contexts)
	f.tab = tree.Contexts[0].Context
	return f
}

// do sends a command and reads its result.
func (f *firefox) do(t *testing.T, method, params string, result any) {
	t.Helper()
	f.id++
	require.NoError(t, wsjson.Write(t.Context(), f.conn, map[string]any{
		"id": f.id, "method": method, "params": json.RawMessage(params)}))
	for {
		var answer struct {
			ID      int             `json:"id"`
			Error   string          `json:"error"`
			Message string          `json:"message"`
			Result  json.RawMessage `json:"result"`
		}
		require.NoError(t, wsjson.Read(t.Context(), f.conn, &answer))
		if answer.ID != f.id {
			continue // an event
		}
		require.Empty(t, answer.Error, "%s: %s", method, answer.Message)
		if result != nil {
			require.NoError(t, json.Unmarshal(answer.Result, result))
		}
		return
	}
}

func (f *firefox) open(t *testing.T, url string) {
	t.Helper()
	f.do(t, "browsingContext.navigate", `{"context": "`+f.tab+`", "url": "`+url+`", "wait": "complete"}`, nil)
}

// call returns what a promise of the page comes to, as JSON.
func (f *firefox) call(t *testing.T, expression string) string {
	t.Helper()
	params, err := json.Marshal(map[string]any{"target": map[string]string{"context": f.tab}, "awaitPromise": true,
		"expression": "(async () => JSON.stringify(await (" + expression + ")))()"})
	require.NoError(t, err)
	var evaluated struct {
		Type   string `json:"type"`
		Result struct {
			Value string `json:"value"`
		} `json:"result"`
		Exception json.RawMessage `json:"exceptionDetails"`
	}
	f.do(t, "script.evaluate", string(params), &evaluated)
	require.Equal(t, "success", evaluated.Type, "%s: %s", expression, evaluated.Exception)
	return evaluated.Result.Value
}

func TestFirefoxOverHTTP2(t *testing.T) {
	browser := startFirefox(t)
	var mu sync.Mutex
	protos, conns := map[string]bool{}, map[string]bool{}
	f := talk.NewFrontWithin(t, func(h http.Handler) http.Handler {
		h = withPage(h)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			protos[r.Method+" "+r.Proto] = true
			if r.Method == "CONNECT" {
				conns[r.RemoteAddr] = true
			}
			mu.Unlock()
			h.ServeHTTP(w, r)
		})
	}, "h2", testkit.Serve(t, talk.Server()))
	browser.open(t, "https"+strings.TrimPrefix(f.URL, "wss"))

	assert.JSONEq(t, `{"protocol": "chat.v2", "extensions": "permessage-deflate", "echoes": [true, true, true, true, true],
		"closed": {"code": 1000, "reason": "done", "wasClean": true, "errors": 0}}`, browser.call(t, "connects()"))
	for expression, want := range map[string]string{
		"closedByServer()":    `{"code": 4001, "reason": "enough", "wasClean": true, "errors": 0}`,
		"closes()":            `{"code": 4002, "reason": "my turn", "wasClean": true, "errors": 0}`,
		"closesWithoutCode()": `{"code": 1005, "reason": "", "wasClean": true, "errors": 0}`,
		`fails("/refuse")`:    `{"code": 1006, "reason": "", "wasClean": false, "errors": 1}`,
	} {
		assert.JSONEq(t, want, browser.call(t, expression), expression)
	}
	assert.Contains(t, browser.call(t, `fails("/drop")`), `"code":1006`)
	assert.Equal(t, "100", browser.call(t, "opens(100)"))
	assert.Equal(t, "100", browser.call(t, "all()"))
	mu.Lock()
	assert.LessOrEqual(t, len(conns), 2, "connections: Firefox may open a second one at once")
	mu.Unlock()
	testFirefoxsLastWords(t, browser)
	browser.open(t, "https"+strings.TrimPrefix(f.URL, "wss"))
	assert.Equal(t, "true", browser.call(t, "waits()"))
	done := make(chan error, 1)
	go func() { done <- f.Shutdown(t.Context()) }()
	assert.JSONEq(t, `{"code": 1001, "reason": "shutting down", "wasClean": true, "errors": 0}`, browser.call(t, "left"))
	assert.NoError(t, testkit.Within(t, done, "the end of Shutdown"))
	mu.Lock()
	defer mu.Unlock()
	assert.True(t, protos["CONNECT HTTP/2.0"], "%v", protos)
	assert.False(t, protos["GET HTTP/1.1"], "%v", protos)
}

// END_STREAM ends both directions. If it came right behind the last message,
// Firefox dropped that 10 of 10 times. On a busy machine Firefox may be slower
// than the second that the proxy waits, so a loss is tried again.
func testFirefoxsLastWords(t *testing.T, browser *firefox) {
	u := testkit.NewUpstream(t)
	u.Script(func(conn *testkit.Peer) {
		closes := strings.HasPrefix(conn.Switch(t, "").URL.Path, "/close")
		server := testkit.End{Peer: conn}
		server.SendFrame(t, testkit.Text, "last")
		if closes {
			server.SendFrame(t, testkit.Close, testkit.ClosePayload(1000, ""))
		}
		conn.Close()
	})
	addr := testkit.ServeHTTP2(t, withPage(testkit.NewProxy(t, u.URL)), nil)
	browser.open(t, "https://"+addr)
	for path, want := range map[string]string{"/close": `"last 1000"`, "/drop": `"last 1006"`} {
		all, got := "["+strings.Repeat(want+",", 9)+want+"]", ""
		for tries := 0; got != all && tries < 3; tries++ {
			got = browser.call(t, `lastWords("`+path+`", 10)`)
		}
		assert.Equal(t, all, got, path)
	}
}
