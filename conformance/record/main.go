// Record builds the cases of the package conformance with the peer, a buildkitd
// of its own, and writes what came out to conformance/testdata/recorded. It
// never runs whittle. See the documentation of the package conformance.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/whittle-build/whittle/conformance/generate"
	"github.com/whittle-build/whittle/conformance/suite"
	"github.com/whittle-build/whittle/test/buildkitd"
)

func main() {
	var o options
	flag.StringVar(&o.run, "run", "", "record only the cases whose names match `REGEXP`")
	flag.BoolVar(&o.force, "force", false, "record cases again whose text has not changed")
	flag.BoolVar(&o.check, "check", false, "write nothing: compare what the peer makes now with what is recorded")
	flag.StringVar(&o.seeds, "seeds", "", "record the generated builds of seeds `FIRST-LAST` instead of the cases")
	flag.StringVar(&o.to, "to", "", "write outcomes of generated builds to `FOLDER` (default conformance/testdata/generated)")
	flag.IntVar(&o.jobs, "jobs", runtime.NumCPU(), "build `N` cases at once, each with a peer of its own")
	flag.Parse()
	if err := o.record(); err != nil {
		fmt.Fprintln(os.Stderr, "record:", err)
		os.Exit(1)
	}
}

type options struct {
	run, seeds, to string
	force, check   bool
	jobs           int
}

// A job is one build to record.
type job struct {
	archive, outcome string
	mayFail          bool // a failure is an outcome, although the case does not tell of one
}

func (j job) name() string { return strings.TrimSuffix(filepath.Base(j.archive), ".txtar") }

func (o *options) record() error {
	mod, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return fmt.Errorf("go env: %w", err)
	}
	top := filepath.Dir(strings.TrimSpace(string(mod)))
	dir, err := os.MkdirTemp("", "conformance-record")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	list := o.cases
	if o.seeds != "" {
		list = o.generated
	}
	todo, err := list(top, dir)
	if err != nil || len(todo) == 0 {
		return err
	}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	r, err := newRecorder(top, dir, min(o.jobs, len(todo)))
	if err != nil {
		return err
	}
	r.check = o.check
	return errors.Join(r.all(todo, interrupted), r.end())
}

// cases lists the cases to be recorded.
func (o *options) cases(top, _ string) ([]job, error) {
	names, err := regexp.Compile(o.run)
	if err != nil {
		return nil, err
	}
	archives, err := filepath.Glob(filepath.Join(top, "conformance/testdata/cases/*.txtar"))
	if err != nil {
		return nil, err
	}
	var todo []job
	for _, a := range archives {
		if j := (job{archive: a, outcome: recorded(top, a)}); names.MatchString(j.name()) {
			todo = append(todo, j)
		}
	}
	return o.stale(todo)
}

// generated lists the builds of the seeds that are asked for, as archives in
// dir.
func (o *options) generated(top, dir string) ([]job, error) {
	first, last, err := generate.Seeds(o.seeds)
	if err != nil {
		return nil, err
	}
	to := o.to
	if to == "" {
		to = filepath.Join(top, "conformance/testdata/generated")
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return nil, err
	}
	var todo []job
	for seed := first; seed <= last; seed++ {
		b := generate.New(seed)
		j := job{filepath.Join(dir, b.Name()+".txtar"), filepath.Join(to, b.Name()+".json"), true}
		if err := os.WriteFile(j.archive, b.Archive(), 0o644); err != nil {
			return nil, err
		}
		todo = append(todo, j)
	}
	return o.stale(todo)
}

// stale keeps of a list what is not recorded as it stands.
func (o *options) stale(list []job) ([]job, error) {
	var todo []job
	for _, j := range list {
		c, err := suite.Header(j.archive)
		if err != nil {
			return nil, err
		}
		old, err := suite.ReadOutcome(j.outcome)
		if o.check || o.force || err != nil || old.Case != c.Sum {
			todo = append(todo, j)
		}
	}
	return todo, nil
}

func recorded(top, archive string) string {
	return filepath.Join(top, "conformance/testdata/recorded", job{archive: archive}.name()+".json")
}

// A recorder has all that recording needs.
type recorder struct {
	dir      string
	check    bool
	peers    []*buildkitd.Daemon
	version  string
	bases    *suite.Bases
	layers   *suite.LayerCache
	registry string
	endServe func() error
	began    time.Time
}

func newRecorder(top, dir string, jobs int) (*recorder, error) {
	r := &recorder{dir: dir, layers: suite.NewLayerCache()}
	bin, err := buildkitd.Programs(top)
	if err != nil {
		return nil, err
	}
	if r.version, err = buildkitd.Version(filepath.Join(bin, "buildkitd")); err != nil {
		return nil, err
	}
	if r.bases, err = suite.MakeBases(top, r.layers); err != nil {
		return nil, err
	}
	if r.registry, r.endServe, err = r.bases.Serve(); err != nil {
		return nil, err
	}
	for i := range jobs {
		p, err := buildkitd.Start(bin, filepath.Join(dir, fmt.Sprint("peer", i)), r.registry)
		if err != nil {
			return nil, errors.Join(err, r.end())
		}
		r.peers = append(r.peers, p)
	}
	r.began = time.Now()
	return r, nil
}

func (r *recorder) end() error {
	errs := []error{r.endServe()}
	for _, p := range r.peers {
		errs = append(errs, p.Stop())
	}
	return errors.Join(errs...)
}

// all does the jobs, and says of each what it did.
func (r *recorder) all(todo []job, interrupted <-chan os.Signal) error {
	work := make(chan job)
	results := make([]error, 0, len(todo))
	var mu sync.Mutex
	var group sync.WaitGroup
	for _, p := range r.peers {
		group.Go(func() {
			for j := range work {
				name := j.name()
				err := r.one(p, j)
				mu.Lock()
				if err != nil {
					err = fmt.Errorf("%s: %w", name, err)
					fmt.Fprintln(os.Stderr, err)
					results = append(results, err)
				} else if !r.check {
					fmt.Println("recorded", name)
				}
				mu.Unlock()
			}
		})
	}
	var end error
loop:
	for _, j := range todo {
		select {
		case work <- j:
		case s := <-interrupted:
			end = fmt.Errorf("stopped: %v", s)
			break loop
		}
	}
	close(work)
	group.Wait()
	if r.check && end == nil {
		fmt.Printf("%d of %d cases are as recorded\n", len(todo)-len(results), len(todo))
	}
	if len(results) > 0 {
		end = errors.Join(end, fmt.Errorf("%d of %d cases failed", len(results), len(todo)))
	}
	return end
}

func (r *recorder) one(p *buildkitd.Daemon, j job) (err error) {
	dir := filepath.Join(r.dir, "cases", j.name())
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	c, err := suite.Open(j.archive, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := p.Forget(); err != nil {
		return err
	}
	out, err := r.build(p, c)
	if err != nil {
		return err
	}
	switch {
	case c.Fails == "" && out.Error != "" && !j.mayFail:
		return fmt.Errorf("the peer fails, and the case does not say so: %s", out.Error)
	case c.Fails != "" && !strings.Contains(out.Error, c.Blank(c.Fails)):
		return fmt.Errorf("the peer does not say %q: %q", c.Fails, out.Error)
	case strings.Contains(out.Error, r.dir):
		return fmt.Errorf("the outcome has a path of this machine in it: %s", out.Error)
	case r.check:
		return same(j.outcome, out)
	}
	out.Peer, out.Date = r.version, time.Now().UTC().Format(time.DateOnly)
	return out.Write(j.outcome)
}

// same compares what is recorded with what the peer made now.
func same(name string, now *suite.Outcome) error {
	old, err := suite.ReadOutcome(name)
	if err != nil {
		return err
	}
	diffs, err := suite.Compare(old, now)
	if err != nil {
		return err
	}
	var all []error
	for _, d := range diffs {
		all = append(all, fmt.Errorf("%s: recorded %s, and now it is %s", d.What, d.Peer, d.Got))
	}
	if old.Case != now.Case {
		all = append(all, errors.New("another text of the case is recorded"))
	}
	return errors.Join(all...)
}

func (r *recorder) build(p *buildkitd.Daemon, c *suite.Case) (*suite.Outcome, error) {
	if c.First != "" {
		t := &translation{c: c}
		t.local("context", c.Context)
		t.local("dockerfile", c.Context)
		t.opt("filename", "first.Dockerfile")
		first := append(t.args, "--output", "type=image,push=true,registry.insecure=true,name="+r.registry+"/library/"+c.FirstName())
		if _, failed := buildWith(p, c, first); failed != "" {
			return nil, fmt.Errorf("first.Dockerfile: %s", failed)
		}
	}
	args, err := translate(c)
	if err != nil {
		return nil, err
	}
	archive := filepath.Join(c.Dir, "image.tar")
	lint, failed := buildWith(p, c, append(args, "--output", "type=oci,dest="+archive))
	if failed != "" {
		return suite.Failed(c, failed, lint), nil
	}
	img, err := r.layers.ReadImage(archive)
	if err != nil {
		return nil, err
	}
	return suite.Describe(c, img, r.bases, r.began, lint)
}
