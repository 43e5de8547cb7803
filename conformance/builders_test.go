package conformance

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/whittle-build/whittle/conformance/suite"
	"github.com/whittle-build/whittle/test/dockerd"
)

// A builder is docker's command line: dockerd's own, or whittle's.
type builder struct {
	program string
	env     []string
	network []string // flags that let RUN reach what it needs
}

// run runs a command and returns what it prints. Its error ends with what the
// command said.
func (b *builder) run(args ...string) ([]byte, error) {
	cmd := exec.Command(b.program, args...)
	cmd.Env = b.env
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s %s: %w\n%s", filepath.Base(b.program), strings.Join(args, " "), err, tail(said.String()+out.String()))
	}
	return out.Bytes(), nil
}

func tail(s string) string {
	const most = 4000
	if len(s) > most {
		return "…" + s[len(s)-most:]
	}
	return s
}

// build builds file in a context under a name.
func (b *builder) build(name, file, context string, args ...string) error {
	all := append([]string{"build", "--progress", "plain", "-t", name, "-f", file}, b.network...)
	_, err := b.run(append(append(all, args...), context)...)
	return err
}

// outcome builds a case and describes all of what it leaves.
func (b *builder) outcome(cache *suite.LayerCache, c *suite.Case, dir string, began time.Time) (*suite.Outcome, error) {
	name := "conformance-" + c.Name
	if err := b.build(name, c.File, c.Context, c.Args...); err != nil {
		return nil, err
	}
	archive := filepath.Join(dir, "saved.tar")
	if _, err := b.run("save", "-o", archive, name); err != nil {
		return nil, err
	}
	defer os.Remove(archive)
	img, err := cache.ReadImage(archive)
	if err != nil {
		return nil, err
	}
	return suite.Describe(c, img, &suite.Bases{}, began, nil)
}

// loadBases imports stand-ins into the peer, and what the peer then has into
// the others: all build on the very same images.
func loadBases(dir string, peer *builder, others []*builder, names []string) error {
	load := exec.Command("../standins/load", append([]string{"--with", peer.program}, names...)...)
	load.Env = peer.env
	if out, err := load.CombinedOutput(); err != nil {
		return fmt.Errorf("standins/load: %w\n%s", err, out)
	}
	archive := filepath.Join(dir, "bases.tar")
	defer os.Remove(archive)
	if _, err := peer.run(append([]string{"save", "-o", archive}, names...)...); err != nil {
		return err
	}
	for _, b := range others {
		if _, err := b.run("load", "-i", archive); err != nil {
			return err
		}
	}
	return nil
}

// startPeer starts a dockerd of this test's own, with all that is its own in
// dir.
func startPeer(t *testing.T, dir string) *builder {
	t.Helper()
	if why := dockerd.Missing(); why != "" {
		t.Skip(why)
	}
	d, err := dockerd.Start(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
	})
	return &builder{program: d.Client, env: d.Env, network: []string{"--network", "host"}}
}

// whittle returns the program with a store of its own in dir and a provider.
func whittle(program, dir, provider string) *builder {
	b := &builder{program: program, network: []string{"--network", "host"}}
	b.env = append(os.Environ(), "WHITTLE_ROOT="+filepath.Join(dir, provider), "WHITTLE_ROOTFS="+provider)
	return b
}
