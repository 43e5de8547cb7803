package registry

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
)

// distribution starts the registry that Docker uses, on loopback, and returns
// its host.
func distribution(t *testing.T) string {
	t.Helper()
	return distributionWith(t, "", "")
}

// distributionWith is the same with more at the top of its configuration, and in the
// part http.
func distributionWith(t *testing.T, top, inHTTP string) string {
	t.Helper()
	bin, err := exec.LookPath("docker-registry")
	if err != nil {
		t.Skipf("needs docker-registry: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yml")
	if inHTTP != "" {
		inHTTP = ", " + inHTTP
	}
	text := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %s%s}\n%s", dir, host, inHTTP, top)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "serve", config)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait() // killed: that is what it says
	})
	for range 100 {
		conn, err := net.Dial("tcp", host)
		if err == nil {
			conn.Close()
			return host
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Skip("needs docker-registry to start: no answer in 5 s")
	return ""
}

func TestDockersOwnRegistryTakesAndGivesImages(t *testing.T) {
	host := distribution(t)
	p := paint(t, "amd64", 3_000_000, 1000)
	ref := Ref{Domain: host, Path: "team/app", Tag: "1"}
	d, err := client().Push(t.Context(), p.upload(ref))
	if err != nil {
		t.Fatal(err)
	}
	r, b, err := pull(t, client(), ref)
	if err != nil || r.Manifest.Digest != d.Digest || !bytes.Equal(b.got[0], p.layers[0]) {
		t.Fatalf("pulled %+v, %v", r, err)
	}

	var mu sync.Mutex
	done := map[Action]int{}
	c := client()
	c.Event = func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		done[e.Action]++
	}
	up := p.upload(Ref{Domain: host, Path: "team/copy", Tag: "2"})
	for i := range up.Layers {
		up.Layers[i].From = []Ref{ref}
		up.Layers[i].Open = func() (io.ReadCloser, error) { return nil, fmt.Errorf("opened for nothing") }
	}
	if _, err := c.Push(t.Context(), up); err != nil || done[Mounted] != 2 {
		t.Errorf("copy: %v, events %v, want two layers mounted", err, done)
	}

	ref.Tag = "3"
	if _, err := client().Resolve(t.Context(), ref, amd64); err == nil || hint(err) != "did you mean the tag 1?" {
		t.Errorf("another tag: %v, hint %q", err, hint(err))
	}
}

func TestABlobOfDockersOwnRegistryIsResumed(t *testing.T) {
	host := distribution(t)
	p := paint(t, "amd64", 3_000_000)
	ref := Ref{Domain: host, Path: "app", Tag: "1"}
	if _, err := client().Push(t.Context(), p.upload(ref)); err != nil {
		t.Fatal(err)
	}
	var ranges []string
	inner := newTransport()
	c := client()
	c.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
		resp, err := inner.RoundTrip(r)
		if err != nil || !strings.HasSuffix(r.URL.Path, digest.Of(p.layers[0]).String()) {
			return resp, err
		}
		ranges = append(ranges, r.Header.Get("Range"))
		if len(ranges) < 3 {
			resp.Body = &cut{resp.Body, 1_000_000}
		}
		return resp, nil
	})
	_, b, err := pull(t, c, ref)
	if err != nil || !bytes.Equal(b.got[0], p.layers[0]) {
		t.Fatalf("%d bytes, %v", len(b.got[0]), err)
	}
	if want := []string{"", "bytes=1000000-2999999", "bytes=2000000-2999999"}; !slices.Equal(ranges, want) {
		t.Errorf("asked for %q, want %q", ranges, want)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// cut breaks a body after n bytes.
type cut struct {
	io.ReadCloser
	n int
}

func (c *cut) Read(p []byte) (int, error) {
	if c.n == 0 {
		return 0, fmt.Errorf("connection reset by peer")
	}
	n, err := c.ReadCloser.Read(p[:min(len(p), c.n)])
	c.n -= n
	return n, err
}

func TestSkopeoReadsWhatWasPushed(t *testing.T) {
	skopeo, err := exec.LookPath("skopeo")
	if err != nil {
		t.Skipf("needs skopeo: %v", err)
	}
	host := distribution(t)
	p := paint(t, "amd64", 1000)
	ref := Ref{Domain: host, Path: "app", Tag: "1"}
	if _, err := client().Push(t.Context(), p.upload(ref)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, skopeo, "inspect", "--tls-verify=false", "--config", "--raw", "docker://"+ref.String())
	cmd.Env = append(os.Environ(), "REGISTRY_AUTH_FILE="+filepath.Join(t.TempDir(), "none"))
	out, err := cmd.Output()
	if err != nil || !bytes.Equal(out, p.config) {
		t.Errorf("skopeo reads %s, %v, want %s", out, err, p.config)
	}
}
