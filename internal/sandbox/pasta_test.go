package sandbox

import (
	"context"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestANetworkOfPastaLeadsOutAndEndsWithTheStep(t *testing.T) {
	if err := CheckPasta(); err != nil {
		t.Skipf("needs pasta, of the package passt: %v", err)
	}
	if unix.Access("/dev/net/tun", unix.R_OK|unix.W_OK) != nil {
		t.Skip("needs root: and /dev/net/tun, which this user may not open")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	l, err := net.Listen("unix", "@"+t.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	// Sockets of the machine have names; one that has none may be the runtime's, which is beginning or ending.
	c, out := shell(t, newRoot(t), "cat /proc/net/route /etc/resolv.conf; busybox grep -c '[@/]' /proc/net/unix || true")
	c.Network, c.ResolvConf = NetworkPasta, true
	p, err := Start(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	pid := p.pasta.cmd.Process.Pid
	if _, err := p.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(pid, 0); err != unix.ESRCH {
		t.Errorf("pasta has not ended: %v", err)
	}
	if got := out.String(); !defaultRoute(got) || !strings.Contains(got, "nameserver "+pastaDNS) || !strings.HasSuffix(got, "\n0\n") {
		t.Errorf("the step saw %s", got)
	}
}

func TestTheResolverOfAPrivateNetworkIsPastas(t *testing.T) {
	got := pastaResolvConf("# c\nnameserver 127.0.0.53\nsearch a.b\n nameserver 1.1.1.1\noptions edns0\n")
	expect(t, "resolv.conf", got, "nameserver 169.254.1.1\n# c\nsearch a.b\noptions edns0\n")
}

func TestAMissingPastaSaysWhatToInstall(t *testing.T) {
	if unix.Access("/dev/net/tun", unix.R_OK|unix.W_OK) != nil {
		t.Skip("needs root: and /dev/net/tun, which this user may not open")
	}
	t.Setenv("PATH", t.TempDir())
	err, ok := CheckPasta().(*NetworkError)
	if !ok || err.Err != exec.ErrNotFound || !strings.Contains(err.Hint(), "apt-get install passt") {
		t.Errorf("got %v", err)
	}
}
