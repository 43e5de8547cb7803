package whittle

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/whittle-build/whittle/internal/fetch"
	"github.com/whittle-build/whittle/internal/plan"
)

// epochArg is the build argument that pins the times of an image.
const epochArg = "SOURCE_DATE_EPOCH"

// takeEpoch makes the request's time a build argument, unless one is given.
func (b *build) takeEpoch() {
	if b.req.Timestamp != "" {
		b.setArg(epochArg, b.req.Timestamp)
		return
	}
	if _, given := b.req.Args[epochArg]; !given && b.req.SourceDateEpoch != "" {
		b.setArg(epochArg, b.req.SourceDateEpoch)
	}
}

// setArg changes a build argument of this build; the map is the caller's.
func (b *build) setArg(name, value string) {
	args := maps.Clone(b.req.Args)
	if args == nil {
		args = map[string]string{}
	}
	args[name] = value
	b.req.Args = args
}

// argRequest is as much of the plan's request as build arguments need.
func (b *build) argRequest() plan.Request {
	return plan.Request{File: b.file, Target: b.req.Target, Args: b.req.Args, Platform: b.platform, BuildPlatform: platform()}
}

// findEpoch finds what SOURCE_DATE_EPOCH is: seconds, or the time of a context.
// The argument is then seconds, for the Dockerfile too.
func (b *build) findEpoch(ctx context.Context) error {
	text, ok := plan.GlobalArg(b.argRequest(), epochArg)
	if !ok {
		return nil
	}
	var err error
	if b.epoch, err = b.epochOf(ctx, text); err != nil {
		return err
	}
	b.setArg(epochArg, b.epochText())
	if b.epoch != nil {
		return nil
	}
	// No time is no argument either, unless the Dockerfile would set one.
	delete(b.req.Args, epochArg)
	if _, ok := plan.GlobalArg(b.argRequest(), epochArg); ok {
		b.setArg(epochArg, "")
	}
	return nil
}

// epochOf is the time that text means; nil is none, as that of a folder.
func (b *build) epochOf(ctx context.Context, text string) (*time.Time, error) {
	if text == "" {
		return nil, nil
	}
	if _, err := strconv.ParseInt(text, 10, 64); err == nil {
		return parseEpoch(text)
	}
	if text == "context" && b.req.Timestamp != "" && b.kind == folderContext {
		t, err := fetch.Committed(ctx, "", b.req.Context)
		return &t, err
	}
	if text == "context" {
		return b.main.time()
	}
	if key, spec, ok := plan.LookUpContext(b.contexts, text, platform()); ok {
		return b.timeOf(ctx, key, spec)
	}
	source, err := plan.EpochSource(b.planRequest(), text)
	if err != nil {
		return nil, err
	}
	if source != nil {
		return b.timeOfSource(ctx, source)
	}
	return nil, &hinted{fmt.Errorf("%s=%q: want whole seconds since 1970", epochArg, text),
		"give seconds, as date +%s and git log -1 --format=%ct print them, or the word context, or the name of a build context, or of a stage that is one ADD from elsewhere"}
}

// timeOfSource is the time of what a stage brings in: of a commit, of a file as
// its server says or, when that does not say, of the newest file in an archive.
func (b *build) timeOfSource(ctx context.Context, source *plan.Remote) (*time.Time, error) {
	if source.Repo != nil {
		tree, err := b.fetcher().Git(ctx, *source.Repo, fetch.GitOptions{KeepGitDir: source.KeepGitDir, CommitTime: true})
		if err != nil {
			return nil, err
		}
		return &tree.Time, nil
	}
	f, err := b.fetcher().HTTP(ctx, fetch.Download{URL: source.URL, Checksum: source.Checksum})
	if err != nil {
		return nil, err
	}
	if !f.Modified.IsZero() {
		return &f.Modified, nil
	}
	packed, err := isPacked(f)
	if err != nil || !packed {
		return nil, err
	}
	c, err := b.archiveContext(ctx, source.String(), f)
	if err != nil {
		return nil, err
	}
	return c.time()
}

// timeOf is the time of a named context. Folders and images have none.
func (b *build) timeOf(ctx context.Context, key string, spec contextSpec) (*time.Time, error) {
	if spec.kind != gitContext && spec.kind != urlContext {
		return nil, nil
	}
	c, err := b.namedContext(ctx, key)
	if err != nil {
		return nil, err
	}
	return c.time()
}

// time is that of what came from elsewhere; nil when it has none.
func (c *buildContext) time() (*time.Time, error) {
	if c == nil || c.made == nil {
		return nil, nil
	}
	return c.made()
}

// epochText is the epoch as keys have it.
func (b *build) epochText() string {
	if b.epoch == nil {
		return ""
	}
	return strconv.FormatInt(b.epoch.Unix(), 10)
}

// maxEpoch is the last second that a document can tell (RFC 3339).
const maxEpoch = 253402300799

func parseEpoch(s string) (*time.Time, error) {
	sec, err := strconv.ParseInt(s, 10, 64)
	if err != nil || sec < 0 || sec > maxEpoch {
		return nil, &hinted{fmt.Errorf("%s=%q: want whole seconds since 1970", epochArg, s), "date +%s prints them"}
	}
	t := time.Unix(sec, 0).UTC()
	return &t, nil
}
