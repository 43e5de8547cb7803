package fetch

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/whittle-build/whittle/internal/address"
	"github.com/whittle-build/whittle/internal/lazyre"
	"github.com/whittle-build/whittle/internal/progress"
)

// git runs the git program for one repository, in a folder that holds nothing
// that the repository could have chosen.
type git struct {
	c      *Client
	repo   *address.Repo
	remote string // the repository, without credentials
	home   string // an empty folder
	config [][2]string
	env    []string

	closers []func() error
}

// openGit prepares for repo; home is an empty folder.
func (c *Client) openGit(ctx context.Context, repo *address.Repo, home string) (*git, error) {
	g := &git{c: c, repo: repo, remote: repo.Remote, home: home}
	var user *url.Userinfo
	if u, err := url.Parse(repo.Remote); err == nil && u.Host != "" {
		user = u.User
		switch {
		case repo.Scheme != "ssh":
			u.User = nil
		case user != nil:
			u.User = url.User(user.Username()) // ssh takes no password from here
		}
		g.remote = u.String()
	}
	g.config = safeConfig()
	g.env = c.gitEnviron(home)
	if repo.Scheme == "ssh" {
		return g, g.agent(home)
	}
	return g, g.authorize(ctx, user)
}

// safeConfig is what no repository and no configuration of the machine changes.
func safeConfig() [][2]string {
	return [][2]string{
		{"core.hooksPath", "/dev/null"},
		{"core.fsmonitor", "false"},
		{"core.askPass", ""},
		{"core.logAllRefUpdates", "false"},
		{"credential.helper", ""},
		{"init.defaultBranch", "main"},
		{"advice.detachedHead", "false"},
		{"gc.auto", "0"},
		{"maintenance.auto", "false"},
		{"fetch.recurseSubmodules", "false"},
		{"submodule.recurse", "false"},
		{"protocol.file.allow", "never"},
		{"protocol.ext.allow", "never"},
		{"safe.directory", "*"}, // the owner is this user, whatever the ids of a user namespace look like
		{"http.lowSpeedLimit", "1"},
		{"http.lowSpeedTime", "60"},
	}
}

// gitEnviron is all that the process gets of this one's environment.
func (c *Client) gitEnviron(home string) []string {
	env := []string{
		"LC_ALL=C", "HOME=" + home, "XDG_CONFIG_HOME=" + home,
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_SYSTEM=/dev/null", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_ATTR_NOSYSTEM=1",
		"GIT_CEILING_DIRECTORIES=/", "GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS=/bin/false", "SSH_ASKPASS=/bin/false",
		"GIT_ALLOW_PROTOCOL=http:https:ssh:git", "GIT_PROTOCOL_FROM_USER=0", "GIT_OPTIONAL_LOCKS=0", "GIT_ADVICE=0",
	}
	path, cert := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", ""
	for _, kv := range c.Environ {
		name, value, _ := strings.Cut(kv, "=")
		switch strings.ToUpper(name) {
		case "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY":
			env = append(env, kv)
		case "PATH":
			path = value
		case "SSL_CERT_FILE":
			cert = value
		}
	}
	if cert != "" {
		env = append(env, "GIT_SSL_CAINFO="+cert)
	}
	return append(env, "PATH="+path)
}

// agent lets ssh use the build's agent, and no key of this machine's users. A
// host that no file knows is taken as the reference takes it, on trust; one
// whose key is another than the one known is refused.
func (g *git) agent(home string) error {
	ssh := "ssh -F /dev/null -o BatchMode=yes -o IdentityFile=none -o ConnectTimeout=15 -o ServerAliveInterval=15" +
		" -o StrictHostKeyChecking=accept-new -o 'UserKnownHostsFile=/dev/null" + g.c.knownHosts() + "'"
	var serve func(net.Listener)
	if g.c.SSH != nil {
		serve, _ = g.c.SSH("default")
	}
	if serve == nil {
		return &Error{What: g.repo.String(), Msg: `no SSH key "default" forwarded from the client`,
			Way: "give the build an agent: --ssh default; a public repository can be read by https"}
	}
	dir, err := os.Open(home)
	if err != nil {
		return err
	}
	// The path of a socket has 107 bytes at most (unix(7)), that of a store any
	// number.
	socket := fmt.Sprintf("/proc/%d/fd/%d/agent", os.Getpid(), dir.Fd())
	l, err := net.Listen("unix", socket)
	if err != nil {
		return errors.Join(fmt.Errorf("socket of the ssh agent: %w", err), dir.Close())
	}
	var wg sync.WaitGroup
	wg.Go(func() { serve(l) })
	g.closers = append(g.closers, func() error {
		err := l.Close()
		wg.Wait()
		return errors.Join(err, dir.Close())
	})
	g.env = append(g.env, "SSH_AUTH_SOCK="+socket, "GIT_SSH_COMMAND="+ssh)
	return nil
}

// rePlainPath is a path that neither the shell nor ssh reads otherwise.
var rePlainPath = lazyre.New(`^/[a-zA-Z0-9/._+-]*$`)

// knownHosts is the caller's file of hosts, after a blank; "" when there is none.
// It is read only: new hosts are written nowhere.
func (c *Client) knownHosts() string {
	for _, kv := range c.Environ {
		home, ok := strings.CutPrefix(kv, "HOME=")
		if !ok {
			continue
		}
		file := home + "/.ssh/known_hosts"
		if _, err := os.Stat(file); err == nil && rePlainPath.MatchString(file) {
			return " " + file
		}
	}
	return ""
}

// close ends what serves git.
func (g *git) close() error {
	var errs []error
	for _, fn := range g.closers {
		errs = append(errs, fn())
	}
	return errors.Join(errs...)
}

// authorize finds the credentials for a repository that is read by http. They
// go into the process's environment, which other users cannot read; its command
// line they can.
func (g *git) authorize(ctx context.Context, user *url.Userinfo) error {
	if g.repo.Scheme != "http" && g.repo.Scheme != "https" {
		return nil
	}
	for _, s := range []struct {
		name  string
		token bool
	}{{"GIT_AUTH_HEADER." + g.repo.Host, false}, {"GIT_AUTH_TOKEN." + g.repo.Host, true}, {"GIT_AUTH_HEADER", false}, {"GIT_AUTH_TOKEN", true}} {
		value, ok, err := g.c.secret(ctx, s.name)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if s.token {
			value = basic("x-access-token:" + value)
		}
		g.header(tokenScope(g.remote), value)
		return nil
	}
	if user != nil {
		password, _ := user.Password()
		g.header(g.repo.Scheme+"://"+g.repo.Host+"/", basic(user.Username()+":"+password))
	}
	return nil
}

func basic(userinfo string) string {
	return "basic " + base64.StdEncoding.EncodeToString([]byte(userinfo))
}

func (g *git) header(scope, value string) {
	g.config = append(g.config, [2]string{"http." + scope + ".extraheader", "Authorization: " + value})
}

// tokenScope is the addresses that a token is for: the repository's, and of
// GitHub all, because its private submodules need the same one.
func tokenScope(remote string) string {
	for _, prefix := range []string{"https://github.com/", "https://www.github.com/"} {
		if strings.HasPrefix(remote, prefix) {
			return prefix
		}
	}
	return remote
}

// Before this version git takes no configuration from its environment, and so
// neither credentials nor what keeps it safe.
const oldestMajor, oldestMinor = 2, 31

var reVersion = lazyre.New(`^git version (\d+)\.(\d+)`)

// ready says whether there is a git that can be used.
func (g *git) ready(ctx context.Context) error {
	_, err := once(ctx, g.c, "git", func() (string, error) {
		out, err := g.run(ctx, "version")
		if err != nil {
			return "", err
		}
		return string(out), checkVersion(string(out))
	})
	var failed *gitError
	var known *Error
	switch {
	case errors.As(err, &failed):
		return g.explain(err)
	case errors.As(err, &known): // perhaps about another repository
		return &Error{What: g.repo.String(), Msg: known.Msg, Way: known.Way}
	}
	return err
}

func checkVersion(out string) error {
	part := reVersion.FindStringSubmatch(out)
	if part == nil {
		return nil // some other's build of it
	}
	major, _ := strconv.Atoi(part[1])
	minor, _ := strconv.Atoi(part[2])
	if major > oldestMajor || major == oldestMajor && minor >= oldestMinor {
		return nil
	}
	return &Error{Msg: fmt.Sprintf("the program git is too old: %s.%s, and at least %d.%d is needed", part[1], part[2], oldestMajor, oldestMinor),
		Way: "install a newer git, or name an archive of the repository in place of it: ADD --unpack https://…/archive.tar.gz"}
}

const maxOutput = 16 << 20

// run runs git outside of any repository.
func (g *git) run(ctx context.Context, args ...string) ([]byte, error) {
	return g.runIn(ctx, g.home, args...)
}

// runIn runs git in a folder and returns what it printed. When ctx ends all of
// its processes do; when this process dies git does.
func (g *git) runIn(ctx context.Context, dir string, args ...string) ([]byte, error) {
	out := &capped{most: maxOutput}
	if err := g.runTo(ctx, out, dir, args...); err != nil {
		return nil, err
	}
	if out.over {
		return nil, &Error{What: g.repo.String(), Msg: fmt.Sprintf("git %s prints more than %d bytes", command(args), maxOutput)}
	}
	return out.Bytes(), nil
}

// runTo is runIn for output that is not kept; git ends when out fails.
func (g *git) runTo(ctx context.Context, out io.Writer, dir string, args ...string) error {
	path, err := gitPath(g.c.GitProgram)
	if err != nil {
		return &Error{What: g.repo.String(), Msg: "reading a repository needs the program git, which is not there",
			Way: "install git, or name an archive of the repository in place of it: ADD --unpack https://…/archive.tar.gz"}
	}
	return runGit(ctx, path, slices.Concat(g.env, configEnviron(g.config)), out, dir, args...)
}

// gitPath is where the program is; "" is the git of PATH.
func gitPath(program string) (string, error) {
	if program == "" {
		program = "git"
	}
	return exec.LookPath(program)
}

// runGit runs git, which ends with ctx, when out fails, and with this process.
func runGit(ctx context.Context, path string, env []string, out io.Writer, dir string, args ...string) error {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = dir
	cmd.Env = env
	errs := &capped{most: 64 << 10}
	cmd.Stdout, cmd.Stderr = out, errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	// The signal is sent when the thread ends that has started the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return &gitError{command: command(args), stderr: errs.String(), err: err}
	}
	return nil
}

// configEnviron hands a configuration over that no file has (git(1),
// GIT_CONFIG_COUNT).
func configEnviron(config [][2]string) []string {
	env := []string{fmt.Sprintf("GIT_CONFIG_COUNT=%d", len(config))}
	for i, kv := range config {
		env = append(env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", i, kv[0]), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", i, kv[1]))
	}
	return env
}

// capped keeps the beginning of what is written to it.
type capped struct {
	bytes.Buffer
	most int
	over bool
}

func (c *capped) Write(p []byte) (int, error) {
	if room := c.most - c.Len(); len(p) > room {
		c.over = true
		c.Buffer.Write(p[:room])
		return len(p), nil
	}
	return c.Buffer.Write(p)
}

// gitError is a git that failed.
type gitError struct {
	command string
	stderr  string
	err     error
}

// command is the first of git's arguments that is no option.
func command(args []string) string {
	for _, a := range args {
		if !strings.HasPrefix(a, "-") {
			return a
		}
	}
	return ""
}

func (e *gitError) Error() string {
	return "git " + e.command + ": " + e.said()
}

func (e *gitError) Unwrap() error { return e.err }

// said is the line of what git printed that says why it failed.
func (e *gitError) said() string {
	best := ""
	for line := range strings.Lines(e.stderr) {
		line = strings.TrimSpace(progress.Clean(strings.TrimSpace(line)))
		if strings.HasPrefix(line, "fatal: ") || strings.HasPrefix(line, "error: ") || best == "" {
			best = line
		}
		if strings.HasPrefix(line, "fatal: ") && !strings.Contains(line, "the remote end hung up") {
			break
		}
	}
	if best == "" {
		best = e.err.Error()
	}
	return progress.Brief(address.Redact(best))
}

func (e *gitError) has(words ...string) bool {
	return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(e.stderr, w) })
}

var reServerError = lazyre.New(`returned error: (5\d\d|429|408)|HTTP (5\d\d|429)`)

// fleeting reports what may work when it is tried again.
func (e *gitError) fleeting() bool {
	return reServerError.MatchString(e.stderr) || e.has("Connection reset", "early EOF", "RPC failed", "unexpected disconnect",
		"timed out", "Operation too slow", "Empty reply from server", "kex_exchange_identification")
}

// tried is run, again and again while the trouble is a fleeting one.
func (g *git) tried(ctx context.Context, args ...string) (out []byte, err error) {
	err = g.c.retry(ctx, func() error {
		out, err = g.run(ctx, args...)
		var failed *gitError
		if errors.As(err, &failed) && failed.fleeting() {
			return &fleeting{error: err}
		}
		return err
	})
	return out, err
}

// explain gives an error of git's its address and a way out.
func (g *git) explain(err error) error {
	var failed *gitError
	if !errors.As(err, &failed) {
		return err
	}
	if failed.has("No space left on device", "Disk quota exceeded") {
		return g.c.Store.Explain(fmt.Errorf("%s: %w", g.repo, syscall.ENOSPC))
	}
	e := &Error{What: g.repo.String(), Msg: failed.said()}
	switch {
	case failed.has("Permission denied (publickey", "Host key verification failed", "Could not read from remote repository") && g.repo.Scheme == "ssh":
		e.Way = "does the agent that --ssh names hold a key that the server knows?"
	case failed.has("could not read Username", "Authentication failed", "returned error: 401", "returned error: 403"):
		e.Way = fmt.Sprintf("if the repository is private, give a token: --secret id=GIT_AUTH_TOKEN.%s,env=NAME", g.repo.Host)
	case failed.has("not found", "does not appear to be a git repository", "returned error: 404"):
		e.Way = "is that the address that git clone takes? A private repository needs --secret id=GIT_AUTH_TOKEN"
	case failed.has("Could not resolve host", "unable to connect", "Failed to connect", "Connection refused", "Couldn't connect", "Network is unreachable"):
		e.Way = "is this machine offline? Files that the build context holds need no repository: COPY them"
	case failed.has("certificate"):
		e.Way = "if its authority is your own, name the file with its certificate in SSL_CERT_FILE"
	case failed.fleeting():
		e.Way = "try again later"
	case failed.command == "submodule" || failed.has("submodule"):
		e.Way = "leave submodules out with ?submodules=false in the address"
	}
	return e
}
