package whittle

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/whittle-build/whittle/internal/address"
	"github.com/whittle-build/whittle/internal/dockerfile"
	"github.com/whittle-build/whittle/internal/image"
	"github.com/whittle-build/whittle/internal/plan"
)

// contextKind says what a build context is.
type contextKind int

const (
	folderContext contextKind = iota
	stdinContext              // a Dockerfile or an archive
	gitContext
	urlContext
	imageContext  // named ones only
	layoutContext // named ones only
)

// The schemes of named contexts that are images.
const (
	imageScheme  = "docker-image://"
	layoutScheme = "oci-layout://"
)

// kindOfContext tells what value is. A folder that is there is one, even where
// it looks like the address of a repository.
func kindOfContext(value string) contextKind {
	switch {
	case value == "-":
		return stdinContext
	case strings.HasPrefix(value, imageScheme):
		return imageContext
	case strings.HasPrefix(value, layoutScheme):
		return layoutContext
	}
	kind := address.KindOf(value)
	switch {
	case kind == address.URL:
		return urlContext
	case kind == address.Git && strings.Contains(value, "://"):
		return gitContext
	case kind == address.Git || strings.HasPrefix(value, "github.com/"):
		if st, err := os.Stat(value); err != nil || !st.IsDir() {
			return gitContext
		}
	}
	return folderContext
}

// contextSpec is what a named context means.
type contextSpec struct {
	name  string // as Request.Contexts has it
	value string
	kind  contextKind
}

// CheckContext says what is wrong with a named context, by its form alone and
// for a folder also when it is not there.
func CheckContext(name, value string) error {
	_, _, err := parseContext(name, value)
	return err
}

// parseContext reads one named context. key is the name as the plan has it.
func parseContext(name, value string) (key string, c contextSpec, err error) {
	c = contextSpec{name, value, kindOfContext(value)}
	bare, osArch, forPlatform := strings.Cut(name, "::")
	if bare == "" {
		return "", c, &hinted{fmt.Errorf("build context %q: has no name", "="+address.Redact(value)), "write NAME=VALUE: what COPY --from, FROM and mounts call it, and what it is"}
	}
	if err := dockerfile.CheckImageName(bare); err != nil {
		way := "write a name such as src or golang:1.24"
		if short, osArch, ok := strings.Cut(bare, ":"); ok {
			if _, perr := contextPlatform(osArch); perr == nil && strings.Contains(osArch, "/") {
				way = fmt.Sprintf("if it is for one platform, write %s::%s", short, osArch)
			}
		}
		return "", c, &hinted{fmt.Errorf("build context %q: the name is no stage's or image's: %w", bare, err), way}
	}
	key = plan.ContextName(bare)
	if key == "scratch" || key == "context" {
		return "", c, &hinted{fmt.Errorf("build context %q: this name cannot be replaced", bare), "scratch is always empty and context always the main build context: choose another name"}
	}
	if forPlatform {
		p, err := contextPlatform(osArch)
		if err != nil {
			return "", c, &hinted{fmt.Errorf("build context %q: %w", name, err), "write NAME::os/arch, for example src::linux/arm64"}
		}
		key += "::" + p.Normalize().String()
	}
	return key, c, c.check()
}

// contextPlatform reads what a named context is for. No stage would ever take it of a platform for which
// nothing is built.
func contextPlatform(text string) (plan.Platform, error) {
	p, err := plan.ParsePlatform(text, platform())
	if err != nil {
		return p, err
	}
	if p.OS != "linux" {
		return p, fmt.Errorf("%q: this version builds Linux images only", text)
	}
	known, err := plan.ParsePlatform(p.Arch, platform())
	if err != nil || known.Arch != p.Arch {
		return p, fmt.Errorf("%q: unknown architecture %q", text, p.Arch)
	}
	return p, nil
}

func (c contextSpec) check() error {
	bad := func(way, format string, args ...any) error {
		return &hinted{fmt.Errorf("build context %s: "+format, append([]any{c.name}, args...)...), way}
	}
	const kinds = "a context is a folder, docker-image://NAME, oci-layout://PATH, a git repository or an http(s) URL"
	switch c.kind {
	case stdinContext:
		return bad("give standard input as the main build context: whittle build -", "only the main context can be standard input")
	case imageContext:
		ref := strings.TrimPrefix(c.value, imageScheme)
		if err := dockerfile.CheckImageName(ref); err != nil {
			return bad("write docker-image://NAME, for example docker-image://alpine:3", "%s: %v", address.Redact(c.value), err)
		}
	case gitContext:
		if _, err := parseRepo(c.value); err != nil {
			return fmt.Errorf("build context %s: %w", c.name, err)
		}
	case layoutContext:
		_, err := image.ParseLayout(strings.TrimPrefix(c.value, layoutScheme))
		if err != nil {
			return fmt.Errorf("build context %s: %w", c.name, err)
		}
	case folderContext:
		scheme, _, ok := strings.Cut(c.value, "://")
		if ok && scheme == "target" {
			return bad("build that target first with -t, and name it: docker-image://NAME", "%s: targets are of bake files", c.value)
		}
		if ok {
			return bad(kinds, "%s: unknown kind %q", address.Redact(c.value), scheme)
		}
		st, err := os.Stat(c.value)
		if c.value == "" || os.IsNotExist(err) {
			return bad(kinds, "%s: no such folder", orEmpty(c.value))
		}
		if err != nil {
			return fmt.Errorf("build context %s: %w", c.name, err)
		}
		if !st.IsDir() {
			return bad("name the folder that the file is in", "%s: is not a folder", c.value)
		}
	}
	return nil
}

func orEmpty(s string) string {
	if s == "" {
		return `""`
	}
	return s
}

// planContexts are the named contexts as the plan takes them.
func planContexts(specs map[string]contextSpec) map[string]plan.NamedContext {
	out := map[string]plan.NamedContext{}
	for key, c := range specs {
		var n plan.NamedContext
		switch c.kind {
		case imageContext:
			n.Image = strings.TrimPrefix(c.value, imageScheme)
		case layoutContext:
			n.Image = c.value
		}
		out[key] = n
	}
	return out
}

// parseContexts reads all named contexts.
func parseContexts(given map[string]string) (map[string]contextSpec, error) {
	specs := map[string]contextSpec{}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		key, c, err := parseContext(name, given[name])
		if err != nil {
			return nil, err
		}
		specs[key] = c
	}
	return specs, nil
}
