package main

import (
	"bufio"
	"debug/buildinfo"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/require"
)

func TestASignalLetsTunnelsEndByThemselves(t *testing.T) {
	url, conns := switches(t)
	c := start(t, url)
	client, server := c.tunnel(t, conns)
	c.signals <- syscall.SIGTERM
	c.stderr.Await(t, "draining")
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", c.addr)
		if err == nil {
			conn.Close()
		}
		return err != nil
	}, testkit.Patience, time.Millisecond, "the command still listens")

	client.wantClose(t, goodbye)
	server.wantClose(t, goodbye)
	client.sendFrame(t, closes, goodbye[:2])
	require.Empty(t, c.exited, "it exits before the tunnel has ended")
	server.reply(t, closes, goodbye[:2])
	client.Close()
	server.Close()
	require.Zero(t, c.exit(t), c.stderr)
}

func TestATunnelThatDoesNotAnswerTheCloseIsCutInTheDrain(t *testing.T) {
	t.Parallel()
	url, conns := switches(t)
	c := start(t, "-drain", "1h", "-close-timeout", "2s", url)
	client, server := c.tunnel(t, conns)
	c.signals <- os.Interrupt
	client.wantClose(t, goodbye)
	server.wantClose(t, goodbye)
	require.Equal(t, 1, c.exit(t))
	require.Contains(t, c.stderr.String(), "\nwsproxy: cut 1 tunnel: no answer to the Close frame within the close timeout\n")
}

// Clients that lose their tunnels all at once reconnect all at once.
func TestSpreadClosesTheTunnelsOneAfterTheOther(t *testing.T) {
	t.Parallel()
	restart := "\x03\xf4service restart" // 1012
	url, conns := switches(t)
	c := start(t, "-drain", "1h", "-spread", "1s", url)
	first, firstServer := c.tunnel(t, conns)
	second, secondServer := c.tunnel(t, conns)
	begin := time.Now()
	c.signals <- os.Interrupt
	for _, end := range []*peer{first, firstServer, second, secondServer} {
		end.wantClose(t, restart)
	}
	require.GreaterOrEqual(t, time.Since(begin), 500*time.Millisecond)
	for _, ends := range [][2]*peer{{first, firstServer}, {second, secondServer}} {
		ends[0].sendFrame(t, closes, restart[:2])
		ends[1].reply(t, closes, restart[:2])
		ends[0].Close()
		ends[1].Close()
	}
	require.Zero(t, c.exit(t), c.stderr)
}

func TestASpreadLongerThanTheDrainIsAMistake(t *testing.T) {
	for _, args := range [][]string{{"-spread", "31s"}, {"-spread", "-1s"}, {"-drain", "0", "-spread", "1s"}} {
		code, _, stderr := status(t, args...)
		require.Equal(t, 2, code)
		require.Contains(t, stderr, "-spread: ")
	}
}

func TestASecondSignalEndsASpread(t *testing.T) {
	url, conns := switches(t)
	c := start(t, "-drain", "1h", "-spread", "1h", url)
	first, _ := c.tunnel(t, conns)
	second, _ := c.tunnel(t, conns)
	c.signals <- os.Interrupt
	c.stderr.Await(t, "draining")
	c.signals <- os.Interrupt
	require.Equal(t, 1, c.exit(t))
	require.Contains(t, c.stderr.String(), "\nwsproxy: cut 2 tunnels: a second signal arrived\n")
	first.ended(t)
	second.ended(t)
}

func TestWhatWasCutBeforeTheDrainIsNotItsFault(t *testing.T) {
	url, conns := switches(t)
	c := start(t, "-close-timeout", "20ms", "-log", "debug", url)
	client, _ := c.tunnel(t, conns)
	require.NoError(t, client.Conn.(*net.TCPConn).CloseWrite())
	c.forgets(t, 1)
	require.Contains(t, c.stderr.String(), wsproxy.ErrCut.Error())
	c.signals <- os.Interrupt
	require.Zero(t, c.exit(t), c.stderr)
}

func TestWithoutTunnelsASignalEndsIt(t *testing.T) {
	url, _ := switches(t)
	c := start(t, "-drain", "1h", url)
	c.signals <- os.Interrupt
	require.Zero(t, c.exit(t), c.stderr)
}

func TestTheEndOfTheDrainCutsTunnelsAndCountsThem(t *testing.T) {
	for _, detached := range []string{"-detached=false", "-detached"} {
		t.Run(detached, func(t *testing.T) {
			url, conns := switches(t)
			c := start(t, "-drain", "10ms", detached, url)
			first, _ := c.tunnel(t, conns)
			second, _ := c.tunnel(t, conns)
			c.signals <- os.Interrupt
			require.Equal(t, 1, c.exit(t))
			require.Contains(t, c.stderr.String(), "\nwsproxy: cut 2 tunnels: still open after 10ms\n")
			first.ended(t)
			second.ended(t)
		})
	}
}

func TestASecondSignalCutsAtOnce(t *testing.T) {
	url, conns := switches(t)
	c := start(t, "-drain", "1h", url)
	client, _ := c.tunnel(t, conns)
	c.signals <- os.Interrupt
	c.stderr.Await(t, "draining")
	c.signals <- os.Interrupt
	require.Equal(t, 1, c.exit(t))
	require.Contains(t, c.stderr.String(), "\nwsproxy: cut 1 tunnel: a second signal arrived\n")
	client.ended(t)
}

func TestAPlainRequestIsPartOfTheDrain(t *testing.T) {
	answer := make(chan string)
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).Flush()
		select {
		case s := <-answer:
			io.WriteString(w, s)
		case <-r.Context().Done():
		}
	})
	t.Run("which waits for it", func(t *testing.T) {
		c := start(t, url)
		_, res := c.ask(t, "/", "")
		c.signals <- os.Interrupt
		c.stderr.Await(t, "draining")
		answer <- "whole"
		b, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.Equal(t, "whole", string(b))
		require.Zero(t, c.exit(t), c.stderr)
	})
	t.Run("and cut at its end", func(t *testing.T) {
		c := start(t, "-drain", "0", url)
		c.ask(t, "/", "")
		c.signals <- os.Interrupt
		require.Equal(t, 1, c.exit(t))
		require.Contains(t, c.stderr.String(), "\nwsproxy: cut 0 tunnels and 1 request: still open after 0s\n")
	})
}

func TestWhatCannotStartSaysSoInOneLine(t *testing.T) {
	busy, err := net.Listen("tcp", "localhost:0")
	require.NoError(t, err)
	defer busy.Close()
	missing := filepath.Join(t.TempDir(), "missing.pem")
	for _, test := range []struct {
		name, want string
		args       []string
	}{
		{"a busy port", "wsproxy: listen tcp", []string{"-listen", busy.Addr().String()}},
		{"a busy port with a target", "wsproxy: listen tcp", []string{"-listen", busy.Addr().String(), "http://localhost"}},
		{"no port", "wsproxy: listen tcp", []string{"-listen", "localhost"}},
		{"a bad target", `wsproxy: target "localhost:3000" has no scheme`, []string{"localhost:3000"}},
		{"a missing certificate", "wsproxy: -tls-cert, -tls-key: open " + missing, []string{"-tls-cert", missing, "-tls-key", missing}},
	} {
		t.Run(test.name, func(t *testing.T) {
			code, stdout, stderr := status(t, test.args...)
			require.Equal(t, 1, code)
			require.Empty(t, stdout)
			require.True(t, strings.HasPrefix(stderr, test.want), stderr)
			require.Equal(t, 1, strings.Count(stderr, "\n"), stderr)
		})
	}
}

func TestEveryMistakeInATargetHasALine(t *testing.T) {
	code, _, stderr := status(t, "ftp://user:password@/#top")
	require.Equal(t, 1, code)
	lines := strings.Split(strings.TrimSuffix(stderr, "\n"), "\n")
	require.Greater(t, len(lines), 1)
	for _, line := range lines {
		require.True(t, strings.HasPrefix(line, "wsproxy: target "), line)
	}
}

func TestTheServerIsFitForTheOpenInternet(t *testing.T) {
	settings, err := parse(nil)
	require.NoError(t, err)
	s := (&service{settings: settings, log: discard()}).newServer()
	require.Equal(t, 10*time.Second, s.ReadHeaderTimeout)
	require.NotZero(t, s.IdleTimeout)
	require.Equal(t, 64<<10, s.MaxHeaderBytes)
	require.Zero(t, s.WriteTimeout, "it would cut plain streams")
	require.Zero(t, s.ReadTimeout, "it would cut uploads")
}

func TestVersionPrintsTheVersionsOfTheModuleAndOfGo(t *testing.T) {
	code, stdout, stderr := status(t, "-version", "-log", "loud") // the other flags are ignored
	require.Zero(t, code)
	require.Empty(t, stderr)
	require.Regexp(t, `^wsproxy \S+ `+regexp.QuoteMeta(runtime.Version())+`\n$`, stdout)
}

func TestTheServersErrorsAreLogged(t *testing.T) {
	certFile, keyFile, _ := certificate(t)
	c := start(t, "-tls-cert", certFile, "-tls-key", keyFile)
	conn, err := net.Dial("tcp", c.addr)
	require.NoError(t, err)
	defer conn.Close()
	io.WriteString(conn, "this is no TLS\r\n\r\n")
	c.stderr.Await(t, `level=WARN msg="http: TLS handshake error`)
}

func TestTheProcessObeysRealSignals(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("windows has no such signals to send")
	}
	goTool, err := exec.LookPath("go")
	if err != nil {
		testkit.Missing(t, "no go command to build it with")
	}
	binary := filepath.Join(t.TempDir(), "wsproxy")
	out, err := exec.Command(goTool, "build", "-o", binary, ".").CombinedOutput()
	require.NoError(t, err, string(out))

	spawn := func(t *testing.T, args ...string) (*exec.Cmd, *command) {
		t.Helper()
		cmd := exec.Command(binary, append([]string{"-listen", "localhost:0"}, args...)...)
		c := &command{stderr: &testkit.Buffer{}}
		cmd.Stderr = c.stderr
		stdout, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		t.Cleanup(func() { cmd.Process.Kill() })
		line, err := bufio.NewReader(stdout).ReadString('\n')
		require.NoError(t, err)
		require.NoError(t, stdout.Close()) // as a log reader that has ended
		c.setURL(t, line)
		return cmd, c
	}
	t.Run("its version is that of the build", func(t *testing.T) {
		out, err := exec.Command(binary, "-version").Output()
		require.NoError(t, err)
		info, err := buildinfo.ReadFile(binary)
		require.NoError(t, err)
		require.NotEmpty(t, info.Main.Version)
		require.Equal(t, "wsproxy "+info.Main.Version+" "+info.GoVersion+"\n", string(out))
	})
	t.Run("SIGTERM ends it with 0", func(t *testing.T) {
		cmd, c := spawn(t)
		code, _ := c.get(t, "/", "")
		require.Equal(t, http.StatusOK, code)
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		require.NoError(t, cmd.Wait(), c.stderr)
	})
	t.Run("the end of the program that reads its access log does not end it", func(t *testing.T) {
		url, conns := switches(t)
		cmd, c := spawn(t, "-access-log", "text", url)
		client, server := c.tunnel(t, conns) // SIGPIPE had ended the command
		client.Close()
		server.Close()
		client, server = c.tunnel(t, conns)
		client.Close()
		server.Close()
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		require.NoError(t, cmd.Wait(), c.stderr)
	})
	t.Run("SIGHUP reads the certificate again", func(t *testing.T) {
		certFile, keyFile, _ := certificate(t)
		cmd, c := spawn(t, "-tls-cert", certFile, "-tls-key", keyFile)
		cert, key := issue(t, 2, -time.Hour, time.Hour)
		put(t, certFile, cert)
		put(t, keyFile, key)
		require.NoError(t, cmd.Process.Signal(syscall.SIGHUP))
		c.stderr.Await(t, `msg="new certificate"`)
		require.EqualValues(t, 2, c.serial(t))
	})
	t.Run("two SIGINTs cut a tunnel and end it with 1", func(t *testing.T) {
		url, conns := switches(t)
		cmd, c := spawn(t, "-drain", "1h", url)
		client, _ := c.tunnel(t, conns)
		require.NoError(t, cmd.Process.Signal(os.Interrupt))
		c.stderr.Await(t, "draining")
		require.NoError(t, cmd.Process.Signal(os.Interrupt))
		var exit *exec.ExitError
		require.ErrorAs(t, cmd.Wait(), &exit)
		require.Equal(t, 1, exit.ExitCode())
		require.Contains(t, c.stderr.String(), "wsproxy: cut 1 tunnel: a second signal arrived\n")
		client.ended(t)
	})
}

// With -spread a tunnel may wait for its turn until it reaches a timeout.
func TestASendTimeoutDuringTheDrainIsNotItsFault(t *testing.T) {
	v := new(service)
	v.draining.Store(true)
	v.closed(wsproxy.Ending{Reason: wsproxy.ReasonSendTimeout, Err: wsproxy.ErrCut})
	require.Zero(t, v.cut.Load())
	v.closed(wsproxy.Ending{Reason: wsproxy.ReasonShutdown, Err: wsproxy.ErrCut})
	require.EqualValues(t, 1, v.cut.Load())
}
