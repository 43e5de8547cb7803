package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// suite is one run: its folder, the registry, and the builders that there are
// here.
type suite struct {
	set      settings
	dir      string
	whittle  string
	origin   origin
	registry *server
	builders []builder
	absent   map[string]string // builder → why it is not here
	has      map[builder]map[string]bool
	others   map[int]int    // processes that were there before
	small    map[int]string // contexts of so many small files
	made     int            // numbers folders and names
}

func newSuite(ctx context.Context, set settings) (_ *suite, err error) {
	s := &suite{set: set, absent: map[string]string{}, has: map[builder]map[string]bool{}, small: map[int]string{}, others: processes()}
	if s.whittle, err = filepath.Abs(set.whittle); err != nil {
		return nil, err
	}
	program, err := os.ReadFile(s.whittle)
	if err != nil {
		return nil, fmt.Errorf("%w (make builds it)", err)
	}
	version, err := exec.CommandContext(ctx, s.whittle, "version").Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.whittle, err)
	}
	s.origin = origin{strings.TrimSpace(string(version)), fmt.Sprintf("%x", sha256.Sum256(program)), machine(set.tempDir)}
	if s.dir, err = os.MkdirTemp(set.tempDir, "whittle-bench."); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.registry, err = s.startRegistry(ctx); err != nil {
		return nil, err
	}
	for _, p := range []string{"erofs", "tree", "chroot"} {
		w, err := s.newWhittle(p)
		if err != nil {
			return nil, err
		}
		s.add(w.name(), w, s.need(ctx, w, "busybox"))
	}
	return s, s.startPeers(ctx)
}

// add takes a builder in, unless why it does not work here is known.
func (s *suite) add(name string, b builder, why error) {
	if why != nil {
		s.absent[name] = firstLine(why.Error())
		return
	}
	s.builders = append(s.builders, b)
}

// startPeers starts the peers that are asked for and can be here.
func (s *suite) startPeers(ctx context.Context) error {
	if s.set.wants("buildkitd") {
		b, err := s.newBuildkitd(ctx)
		s.add("buildkitd", b, err)
	}
	if s.set.wants("dockerd") {
		classic, bk, err := s.newDocker(ctx)
		s.add("dockerd BuildKit", bk, err)
		s.add("dockerd classic", classic, err)
	}
	if s.set.wants("buildah") {
		b, err := s.newBuildah(ctx)
		s.add("buildah", b, err)
	}
	return ctx.Err()
}

// need brings a stand-in to a builder, once.
func (s *suite) need(ctx context.Context, b builder, standIns ...string) error {
	for _, name := range standIns {
		if s.has[b][name] {
			continue
		}
		if err := b.have(ctx, name); err != nil {
			return fmt.Errorf("%s: %w", b.name(), err)
		}
		if s.has[b] == nil {
			s.has[b] = map[string]bool{}
		}
		s.has[b][name] = true
	}
	return nil
}

// close ends what was started and removes everything.
func (s *suite) close() error {
	var errs []error
	for _, b := range s.builders {
		errs = append(errs, b.close())
	}
	if s.registry != nil {
		errs = append(errs, s.registry.stop())
	}
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}

// env is what builders and floors see: nothing of the caller's but what they
// need.
func (s *suite) env(more ...string) []string {
	for _, name := range []string{"PATH", "HOME", "USER", "STANDINS_DIR"} {
		if v, ok := os.LookupEnv(name); ok {
			more = append(more, name+"="+v)
		}
	}
	return more
}

// folder makes an empty folder.
func (s *suite) folder() (string, error) {
	s.made++
	dir := filepath.Join(s.dir, strconv.Itoa(s.made))
	return dir, os.Mkdir(dir, 0o755)
}

// context makes a build context of one Dockerfile.
func (s *suite) context(dockerfile string) (string, error) {
	dir, err := s.folder()
	if err != nil {
		return "", err
	}
	return dir, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o644)
}

// tag is j's, or one that nothing else has: buildkitd keeps no image without.
func (s *suite) tag(j job) string {
	if j.tag != "" {
		return j.tag
	}
	return "untagged-" + filepath.Base(j.dir)
}
