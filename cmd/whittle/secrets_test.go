package main

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// canary is a value that must not be found again.
type canary struct {
	name  string
	forms [][]byte // as it is, and as others would write it
}

func newCanary(name string) (canary, string) {
	var b [12]byte
	rand.Read(b[:])
	text := "canary" + hex.EncodeToString(b[:])
	return canary{name, [][]byte{[]byte(text), []byte(base64.StdEncoding.EncodeToString([]byte(text))), []byte(hex.EncodeToString([]byte(text)))}}, text
}

// in says whether the bytes have the canary in them.
func (c canary) in(b []byte) bool {
	return slices.ContainsFunc(c.forms, func(form []byte) bool { return bytes.Contains(b, form) })
}

// cage is a build with canaries of every kind, and all the places where they
// are looked for.
type cage struct {
	*lab
	dir      string // all that the build can write to, the store apart
	canaries []canary
	args     []string
	key      string // of ssh, the file
}

func (c *cage) canary(name string) string {
	x, text := newCanary(name)
	c.canaries = append(c.canaries, x)
	return text
}

// sshKey writes a key; its canary is the secret part.
func (c *cage) sshKey() {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		c.t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		c.t.Fatal(err)
	}
	text := pem.EncodeToMemory(block)
	c.key = filepath.Join(c.t.TempDir(), "key")
	if err := os.WriteFile(c.key, text, 0o600); err != nil {
		c.t.Fatal(err)
	}
	lines := bytes.Split(text, []byte("\n"))
	c.canaries = append(c.canaries, canary{"ssh key", [][]byte{key.Seed(), lines[2], lines[3]}})
}

// files serves one file to who knows the password that is in the URL.
func (c *cage) serve(user, password string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != user || p != password {
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprintln(w, "file")
	})}
	var wg sync.WaitGroup
	wg.Go(func() { s.Serve(l) })
	c.t.Cleanup(func() { s.Close(); wg.Wait() })
	return fmt.Sprintf("http://%s:%s@%s/f", user, password, l.Addr())
}

// newCage makes a build in which one step holds all secrets while another one
// looks at what it can see of the machine.
func newCage(t *testing.T, provider string) *cage {
	c := &cage{lab: newLab(t, t.TempDir(), "busybox"), dir: t.TempDir()}
	c.env = append(append(c.env, surroundings(provider)...), "TMPDIR="+c.dir)
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(c.canary("file")), 0o600); err != nil {
		t.Fatal(err)
	}
	c.env = append(c.env, "OF_ENV="+c.canary("env"), "TYPED="+c.canary("type=env"), "UNUSED="+c.canary("environment of the caller"))
	user, password := c.canary("user of a URL"), c.canary("password of a URL")
	c.sshKey()
	patience := 600 // times 50 ms, until the other step is where it is waited for
	if provider == "chroot" {
		patience = 60 // for nothing: a cache mount is at one place at a time there
	}
	ctx := folder(t, map[string]string{"Dockerfile": fmt.Sprintf(`FROM busybox AS holds
ADD %[1]s /added
RUN --mount=type=cache,target=/sync touch /sync/ready; n=0; while [ ! -e /sync/looks ] && [ $n -lt %[2]d ]; do n=$((n+1)); sleep 0.05; done
RUN --mount=type=cache,target=/sync --mount=type=secret,id=file --mount=type=secret,id=OF_ENV,env=OF_ENV --mount=type=secret,id=typed,env=T,target=/t --mount=type=ssh \
    touch /sync/holds; cp /run/secrets/file /dev/shm/; [ -n "$OF_ENV$T" ] && [ -S $SSH_AUTH_SOCK ] && wc -c /run/secrets/file /t; grep 'core file' /proc/self/limits; \
    sh -c 'ulimit -c unlimited 2>/dev/null; kill -SEGV $$'; n=0; while [ ! -e /sync/looked ] && [ $n -lt %[2]d ]; do n=$((n+1)); sleep 0.05; done; ls >/dev/null
FROM busybox AS looks
RUN --mount=type=cache,target=/sync touch /sync/looks; n=0; while [ ! -e /sync/holds ] && [ $n -lt %[2]d ]; do n=$((n+1)); sleep 0.05; done; \
    [ ! -e /sync/holds ] || echo THEY=held >/held; cat /proc/*/environ /proc/*/cmdline /proc/*/comm >/seen 2>/dev/null; cat /proc/*/root/run/secrets/* /proc/*/root/t >>/seen 2>/dev/null; env >>/seen; \
    find / -xdev -type f -size -1000 2>/dev/null | grep -v '^/\(proc\|sys\|bin\|sync\|seen\|files\)' | xargs cat >/files 2>/dev/null; find /run /dev/shm /tmp >>/seen; grep 'core file' /proc/self/limits >/limits; touch /sync/looked
FROM busybox
ARG SHOWN
RUN echo $SHOWN | wc -c
COPY --from=holds / /holds
COPY --from=looks /seen /files /limits /held* /
`, c.serve(user, password), patience)})
	c.args = []string{"build", "-t", "app", "--secret", "id=file,src=" + file, "--secret", "id=OF_ENV,env=OF_ENV",
		"--secret", "id=typed,type=env,src=TYPED", "--ssh", "default=" + c.key, "--metadata-file", filepath.Join(c.dir, "meta"), "--iidfile", filepath.Join(c.dir, "iid"), ctx}
	return c
}

// build runs the build and returns all that it said. While it runs, what every
// process of it shows to the machine is looked at.
func (c *cage) build(extra ...string) []byte {
	c.t.Helper()
	cmd := c.command(append(c.args[:1:1], append(extra, c.args[1:]...)...)...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { c.watch(cmd.Process.Pid, done) })
	err := cmd.Wait()
	close(done)
	wg.Wait()
	if err != nil {
		c.t.Fatalf("%v\n%s", err, said.Bytes())
	}
	return said.Bytes()
}

// watch looks at the command lines of all processes that come from pid, until
// done. Environments are what was given to a step as such, and the caller's own.
func (c *cage) watch(pid int, done <-chan struct{}) {
	for {
		for _, p := range descendants(pid) {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p))
			if err == nil {
				c.look(fmt.Sprintf("the command line of process %d (%.40q)", p, b), b)
			}
		}
		select {
		case <-done:
			return
		case <-time.After(3 * time.Millisecond):
		}
	}
}

func descendants(pid int) []int {
	out := []int{pid}
	for i := 0; i < len(out); i++ {
		lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", out[i]))
		for _, l := range lists {
			b, _ := os.ReadFile(l)
			for _, f := range strings.Fields(string(b)) {
				if n, err := strconv.Atoi(f); err == nil {
					out = append(out, n)
				}
			}
		}
	}
	return out
}

// look fails the test for each canary that is in b.
func (c *cage) look(where string, b []byte) {
	c.t.Helper()
	for _, x := range c.canaries {
		if x.in(b) {
			c.t.Errorf("%s has the %s", where, x.name)
		}
	}
}

// search looks at every file below a folder, at names and attributes too.
func (c *cage) search(dir string) {
	c.t.Helper()
	n := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		c.look("the name "+path, []byte(path))
		b := make([]byte, 64<<10)
		if size, err := unix.Llistxattr(path, b); err == nil {
			for name := range strings.SplitSeq(strings.TrimRight(string(b[:size]), "\x00"), "\x00") {
				v := make([]byte, 64<<10)
				if n, err := unix.Lgetxattr(path, name, v); err == nil {
					c.look("an attribute of "+path, v[:n])
				}
			}
		}
		if !d.Type().IsRegular() {
			if d.Type()&fs.ModeSymlink != 0 {
				to, _ := os.Readlink(path)
				c.look("the link "+path, []byte(to))
			}
			return nil
		}
		n++
		text, err := os.ReadFile(path)
		c.look(path, text)
		return err
	})
	if err != nil {
		c.t.Error(err)
	}
	if n == 0 {
		c.t.Errorf("nothing lies in %s", dir)
	}
}

// surroundings are those of a provider, or of steps in a chroot.
func surroundings(provider string) []string {
	if provider == "chroot" {
		return []string{"WHITTLE_ISOLATION=chroot", "WHITTLE_ROOTFS="}
	}
	return []string{"WHITTLE_ISOLATION=native", "WHITTLE_ROOTFS=" + provider}
}

// everyWay runs fn with each provider that this user may have, and in a chroot.
func everyWay(t *testing.T, fn func(t *testing.T, provider string)) {
	list := []string{"erofs", "tree", "chroot"}
	if os.Getuid() != 0 {
		list = list[1:2]
	}
	for _, p := range list {
		t.Run(p, func(t *testing.T) {
			t.Parallel()
			fn(t, p)
		})
	}
}

// What a build is given as a secret, and the credentials of addresses, are in
// no byte that it leaves: layers (sealed ones too), config, history, records,
// caches, what it says in any form, temporary files, the command lines of its
// processes. A build argument is not secret: see docs/run.md.
func TestAttack31_NoByteThatABuildLeavesHasASecret(t *testing.T) {
	t.Parallel()
	everyWay(t, func(t *testing.T, provider string) {
		c := newCage(t, provider)
		shown, text := newCanary("build argument")
		for _, progress := range []string{"plain", "json", "classic"} {
			c.look("--progress "+progress, c.build("--no-cache", "--progress", progress, "--build-arg", "SHOWN="+text))
		}
		out := filepath.Join(c.dir, "app.tar")
		c.run("save", "-o", out, "app")
		history := c.run("history", "--no-trunc", "app")
		c.look("history", []byte(history))
		c.look("inspect", []byte(c.run("inspect", "app")))
		c.look("the export of the caches", []byte(c.run("cache", "mounts", "export", filepath.Join(c.dir, "caches"))))
		for _, progress := range []string{"plain", "json"} { // a build that fails tells more
			dir := folder(t, map[string]string{"Dockerfile": "FROM busybox\nRUN --mount=type=secret,id=OF_ENV,env=OF_ENV --mount=type=secret,id=file [ -n \"$OF_ENV\" ] && exit 3\n"})
			cmd := c.command(append(c.args[:len(c.args)-1:len(c.args)-1], "--progress", progress, dir)...)
			said, err := cmd.CombinedOutput()
			if err == nil || !bytes.Contains(said, []byte("exit code: 3")) {
				t.Errorf("a build that fails: %v\n%s", err, said)
			}
			c.look("a failure, --progress "+progress, said)
		}
		c.search(c.store)
		c.search(c.dir)
		// The search finds what is there: a build argument is.
		if !shown.in([]byte(history)) {
			t.Error("the history does not even tell a build argument: the search proves nothing")
		}
	})
}

// A step without the mount sees nothing of the secrets that another one holds
// at the same moment: not in its files, not in the processes that it can see,
// not in its environment.
func TestAttack32_AStepSeesNoSecretOfAnother(t *testing.T) {
	t.Parallel()
	everyWay(t, func(t *testing.T, provider string) {
		c := newCage(t, provider)
		c.run(c.args...)
		files := c.files(t)
		if len(files["seen"]) < 200 || !strings.Contains(files["seen"], "PATH=") {
			t.Errorf("the other step has not looked: it saw %q", files["seen"])
		}
		// In a chroot the steps cannot wait for each other.
		if files["held"] == "" && provider != "chroot" {
			t.Error("the other step has not looked while there were secrets")
		}
		c.look("what another step sees", []byte(files["seen"]))
		for name, text := range files {
			c.look("the image's "+name, []byte(text))
			if strings.Contains(filepath.Base(name), "core") {
				t.Errorf("a step with secrets has left the core file %s", name)
			}
		}
	})
}

// files are the contents of the small files of the image.
func (c *cage) files(t *testing.T) map[string]string {
	t.Helper()
	dir := t.TempDir()
	c.run("cp", strings.TrimSpace(c.run("create", "app"))+":/", dir)
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if info, err := d.Info(); err != nil || info.Size() > 500<<10 {
			return err // busybox itself, under all of its names
		}
		b, err := os.ReadFile(path)
		out[strings.TrimPrefix(path, dir+"/")] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// coreFiles skips where the machine hands crashes to a program.
func coreFiles(t *testing.T) {
	t.Helper()
	pattern, err := os.ReadFile("/proc/sys/kernel/core_pattern")
	if err != nil || len(pattern) == 0 || strings.ContainsAny(string(pattern), "|/") {
		t.Skipf("needs core files in the working directory: core_pattern is %q", pattern)
	}
	var have unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &have); err != nil || have.Max != unix.RLIM_INFINITY {
		t.Skipf("needs a hard limit of core files that is none: it is %d", have.Max)
	}
}

// A step that crashes leaves a core file where it stands, in its layer: one that
// has secrets must not.
func TestAttack31_AStepWithSecretsLeavesNoCoreFile(t *testing.T) {
	coreFiles(t)
	everyWay(t, func(t *testing.T, provider string) {
		l := newLab(t, t.TempDir(), "busybox")
		l.env = append(append(l.env, surroundings(provider)...), "S=value")
		const crash = "ulimit -c unlimited; sh -c 'kill -SEGV $$'; ls | grep -c ^core; true\n"
		dir := folder(t, map[string]string{"Dockerfile": "FROM busybox\nWORKDIR /w\nRUN echo without: && " + crash +
			"RUN rm -f core*\nRUN --mount=type=secret,id=S,env=S echo env: $(" + crash[:len(crash)-1] + ")\nRUN --mount=type=secret,id=S echo file: $(" + crash[:len(crash)-1] + ")\n"})
		cmd := l.command("build", "--progress", "plain", "--secret", "id=S,env=S", dir)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		for _, want := range []string{"env: 0\n", "file: 0\n"} {
			if !bytes.Contains(out, []byte(want)) {
				t.Errorf("no %q in\n%s", want, out)
			}
		}
		if os.Getuid() == 0 && !bytes.Contains(out, []byte(" 1\n")) {
			t.Errorf("a step without secrets leaves none either: this proves nothing\n%s", out)
		}
	})
}

// Whittle itself holds the values while it builds, and dumps none of them.
func TestAttack31_WhittleLeavesNoCoreFileWhileItHoldsSecrets(t *testing.T) {
	coreFiles(t)
	c := &cage{lab: &lab{t: t}}
	c.sshKey()
	for _, with := range [][]string{nil, {"--secret", "id=S,env=S"}, {"--ssh", "default=" + c.key}} {
		l := newLab(t, t.TempDir(), "busybox")
		l.env = append(l.env, "S=value", "GOTRACEBACK=crash")
		dir := folder(t, map[string]string{"Dockerfile": "FROM busybox\nRUN echo runs; sleep 60\n"})
		cmd := l.command(append(append([]string{"build", "--progress", "plain"}, with...), dir)...)
		cmd.Dir = t.TempDir()
		out, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		raise := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
		if err := unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_CORE, &raise, nil); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(out)
		for line := ""; !strings.Contains(line, " runs"); {
			if line, err = lines.ReadString('\n'); err != nil {
				t.Fatalf("before the step ran: %v", err)
			}
		}
		victims := descendants(cmd.Process.Pid)[:1]
		if os.Getuid() != 0 {
			victims = descendants(cmd.Process.Pid)[1:2] // the one in the user namespace does the work
			if err := unix.Prlimit(victims[0], unix.RLIMIT_CORE, &raise, nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := syscall.Kill(victims[0], syscall.SIGABRT); err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, lines)
		_ = cmd.Wait() // it was killed
		cores, _ := filepath.Glob(filepath.Join(cmd.Dir, "core*"))
		if with == nil && len(cores) == 0 {
			t.Skip("needs core files: this machine writes none for a program that aborts")
		}
		if with != nil && len(cores) > 0 {
			t.Errorf("with %v: %v", with, cores)
		}
	}
}
