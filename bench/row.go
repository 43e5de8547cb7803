package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// row is a figure of the suite: one kind of work, done by all builders.
type row struct {
	id    string
	work  string
	floor string // what the machine's own work is that it is held against; "" is none
	goal  goal
	runs  int
	needs []string // stand-ins
	make  func(ctx context.Context, s *suite) (*scene, error)
	// alone rows have no peers: they compare whittle with itself.
	alone bool
	// sizes are those of a row about growth, with a scene each from grow in
	// make's stead.
	sizes []int
	grow  func(ctx context.Context, s *suite, n int) (*scene, error)
}

// goal is what whittle's figure is held against. Zero parts are not.
type goal struct {
	peer  float64 // of the best peer's time, with erofs; with tree it is 1, with chroot it is not held
	floor float64 // of the floor's time, with erofs
	// overhead is of what the best peer takes beyond the floor, with erofs.
	overhead float64
	time     time.Duration // for one of the row's steps, with erofs
	steps    int           // in a run; 0 is one
	// exponent is how fast the time may grow with the size, with any provider.
	exponent float64
}

// scene is a row's work, prepared.
type scene struct {
	job job
	// prime is done once for each builder, before its first run; nil is nothing.
	prime func(ctx context.Context, b builder) error
	// ready is done before each run, in nobody's time; nil is nothing. n counts
	// the runs of all builders.
	ready func(ctx context.Context, b builder, n int) error
	// run is what is timed; nil is the build of job. vary makes each run's job
	// another one; nil does not.
	run   func(ctx context.Context, b builder, j job) (sample, error)
	vary  func(j job, n int) job
	floor func(ctx context.Context, n int) (sample, error)
	close func() error
	// files says that many files are deleted between the runs.
	files bool
	// floorReads is a folder that the floor reads besides the context.
	floorReads string
}

// figure is what came out for one builder in one row.
type figure struct {
	Builder string
	About   string          `json:",omitempty"` // how the builder was set up
	Times   []time.Duration // nanoseconds, one a run
	Median  time.Duration
	Peak    int64  `json:",omitempty"` // bytes
	Read    int64  `json:",omitempty"` // bytes, of the last run
	Written int64  `json:",omitempty"`
	Pushed  int64  `json:",omitempty"` // bytes of the layers that were made for elsewhere
	Why     string `json:",omitempty"` // why there are no times
	// Sizes and Exponent are those of a row about growth; Times then has the
	// median for each size.
	Sizes    []int   `json:",omitempty"`
	Exponent float64 `json:",omitempty"`
}

// result is a row, measured.
type result struct {
	row
	origin
	figures []figure
	floor   figure
	aside   string
	spent   phases
}

// phases are how long it took to measure a row, and of what that consists.
type phases struct {
	all, made, primed, tidied time.Duration
	ran                       time.Duration // what was timed
}

func (p phases) String() string {
	round := func(d time.Duration) string { return d.Round(time.Second).String() }
	return fmt.Sprintf("%s: made %s, primed %s, got ready %s, ran %s, tidied %s", round(p.all), round(p.made), round(p.primed),
		round(p.all-p.made-p.primed-p.ran-p.tidied), round(p.ran), round(p.tidied))
}

// lap adds to d the time since *last, which becomes now.
func lap(d *time.Duration, last *time.Time) {
	now := time.Now()
	*d += now.Sub(*last)
	*last = now
}

// track is a scene of a row and what is measured on it. A row about growth has one for each size,
// other rows have one.
type track struct {
	*scene
	size    int
	figures map[builder]*figure
	floor   figure
}

// measure runs a row on each of its tracks and with every builder in turn, so that a change of the
// machine's mood meets all of them.
func (s *suite) measure(ctx context.Context, r row) result {
	res := result{row: r, floor: figure{Builder: "floor"}}
	began := time.Now()
	dropCache() // or rows would pay for the files of those before
	tracks, err := s.lay(ctx, r, &res.spent)
	if err == nil {
		n := 0
		for i := range s.runs(r) {
			for _, t := range tracks {
				n = s.round(ctx, t, i, n)
			}
		}
		res.figures, res.floor = s.found(r, tracks)
	} else {
		res.figures = []figure{{Builder: "all", Why: firstLine(err.Error())}}
	}
	for _, t := range tracks {
		res.spent.ran += t.ran()
	}
	last := time.Now()
	if err := s.tidy(ctx, tracks); err != nil {
		res.aside = firstLine(err.Error())
	}
	lap(&res.spent.tidied, &last)
	res.spent.all = time.Since(began)
	return res
}

// lay makes a row's scenes and readies the builders for them. What was made before an error is
// returned with it.
func (s *suite) lay(ctx context.Context, r row, spent *phases) (tracks []*track, err error) {
	sizes := r.sizes
	if sizes == nil {
		sizes = []int{1}
		r.grow = func(ctx context.Context, s *suite, _ int) (*scene, error) { return r.make(ctx, s) }
	} else if s.set.quick {
		sizes = sizes[:3]
	}
	for _, n := range sizes {
		last := time.Now()
		sc, err := r.grow(ctx, s, n)
		lap(&spent.made, &last)
		if err != nil {
			return tracks, err
		}
		t := &track{scene: sc, size: n, floor: figure{Builder: "floor"}}
		tracks = append(tracks, t)
		t.figures = s.prime(ctx, r, sc)
		lap(&spent.primed, &last)
	}
	return tracks, nil
}

// round runs a track's floor and each builder once, in an order that i turns. It returns the count of
// the runs of all builders, n before it.
func (s *suite) round(ctx context.Context, t *track, i, n int) int {
	if t.scene.floor != nil && t.floor.Why == "" {
		err := errors.Join(warm(t.job.dir), warm(t.floorReads))
		var smp sample
		if err == nil {
			smp, err = t.scene.floor(ctx, i)
		}
		t.floor.add(smp, err)
	}
	for k := range s.builders {
		b := s.builders[(k+i)%len(s.builders)]
		if f := t.figures[b]; f != nil && f.Why == "" && ctx.Err() == nil && (i < least || s.set.runs > 0 || !f.slow()) {
			n++
			f.add(s.once(ctx, t.scene, b, n))
		}
	}
	return n
}

// found are a row's figures, in the order of the builders.
func (s *suite) found(r row, tracks []*track) (figures []figure, floor figure) {
	for _, b := range s.builders {
		if tracks[0].figures[b] == nil {
			continue
		}
		for _, t := range tracks {
			t.figures[b].Median = median(t.figures[b].Times)
		}
		if r.sizes != nil {
			figures = append(figures, curve(tracks, b))
		} else {
			figures = append(figures, *tracks[0].figures[b])
		}
	}
	floor = tracks[0].floor
	floor.Median = median(floor.Times)
	return figures, floor
}

// ran is what was timed of a track.
func (t *track) ran() time.Duration {
	all := sum(t.floor.Times)
	for _, f := range t.figures {
		all += sum(f.Times)
	}
	return all
}

// prime readies all builders for a row, and returns their figures, without times.
func (s *suite) prime(ctx context.Context, r row, sc *scene) map[builder]*figure {
	figures := map[builder]*figure{}
	for _, b := range s.builders {
		if _, isWhittle := b.(*whittle); r.alone && !isWhittle {
			continue
		}
		f := &figure{Builder: b.name(), About: b.about()}
		figures[b] = f
		err := s.need(ctx, b, r.needs...)
		if err == nil && sc.prime != nil {
			err = sc.prime(ctx, b)
		}
		f.fail(err)
	}
	return figures
}

func sum(times []time.Duration) (all time.Duration) {
	for _, d := range times {
		all += d
	}
	return all
}

// tidy gives back the room that a row has taken: some leave a gigabyte a run.
func (s *suite) tidy(ctx context.Context, tracks []*track) error {
	var errs []error
	for _, t := range tracks {
		if t.close != nil {
			errs = append(errs, t.close())
		}
	}
	for _, b := range s.builders {
		errs = append(errs, b.forget(ctx))
	}
	return errors.Join(errs...)
}

// once is one run.
func (s *suite) once(ctx context.Context, sc *scene, b builder, n int) (sample, error) {
	j := sc.job
	if sc.vary != nil {
		j = sc.vary(j, n)
	}
	if sc.ready != nil {
		if err := sc.ready(ctx, b, n); err != nil {
			return sample{}, err
		}
	}
	if sc.files {
		if err := unburdened(b, b.build(ctx, j)); err != nil {
			return sample{}, err
		}
	}
	if err := errors.Join(warm(j.dir), awaitEnd(b, s.others)); err != nil {
		return sample{}, err
	}
	// Nobody waits for a peer that is out of all proportion.
	within, cancel := context.WithTimeout(ctx, s.set.patience)
	defer cancel()
	run := sc.run
	if run == nil {
		run = func(ctx context.Context, b builder, j job) (sample, error) { return timed(b.build(ctx, j), b) }
	}
	smp, err := run(within, b, j)
	if err != nil && within.Err() != nil && ctx.Err() == nil && !own(b.name()) {
		err = fmt.Errorf("not within %s", s.set.patience)
	}
	return smp, err
}

func (f *figure) add(smp sample, err error) {
	if err != nil {
		f.fail(err)
		return
	}
	f.Times = append(f.Times, smp.took)
	f.Peak = max(f.Peak, smp.peak)
	f.Read, f.Written, f.Pushed = smp.read, smp.written, smp.pushed
}

// cannot says whether it is no fault of the builder that there are no times.
func (f *figure) cannot() bool { return strings.HasPrefix(f.Why, "not ") }

func (f *figure) failed() bool { return f.Why != "" && !f.cannot() }

func (f *figure) fail(err error) {
	if err != nil {
		f.Why = firstLine(err.Error())
		f.Times = nil
	}
}

// least is how often a row is measured at least.
const least = 5

// runs is how often a row is measured.
func (s *suite) runs(r row) int {
	switch {
	case s.set.runs > 0:
		return s.set.runs
	case s.set.quick:
		return least
	}
	return max(r.runs, least)
}

// slow says that a builder is not measured more often than it must be: where chance is a small part of the time.
func (f *figure) slow() bool { return median(f.Times) > 10*time.Second }

// scaled is a count of files or bytes, a tenth of it when all shall be quick.
func (s *suite) scaled(n int) int {
	if s.set.quick {
		return n / 10
	}
	return n
}

// built is the prime of rows whose runs find things done.
func built(j job) func(context.Context, builder) error {
	return func(ctx context.Context, b builder) error { return quiet(b.build(ctx, j)) }
}

// plenty is the room that rows of a gigabyte want to see on the disk.
const plenty = 20 << 30

// room makes a builder forget what its runs have left, and build j anew, when the
// disk gets full.
func (s *suite) room(ctx context.Context, b builder, j job) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(s.dir, &fs); err != nil || fs.Bavail*uint64(fs.Bsize) > plenty {
		return err
	}
	return errors.Join(b.forget(ctx), quiet(b.build(ctx, j)))
}

// emptied is the ready of rows that begin with the bases and nothing else.
func emptied(ctx context.Context, b builder, _ int) error { return b.forget(ctx) }

// numbered makes each run's steps other ones.
func numbered(j job, n int) job {
	args := map[string]string{"N": fmt.Sprint(n)}
	for k, v := range j.args {
		args[k] = v
	}
	j.args = args
	return j
}
