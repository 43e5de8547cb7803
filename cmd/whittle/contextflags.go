package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"github.com/whittle-build/whittle"
)

// contextFlags are the flags of build that say where files come from and which
// stages run anew.
type contextFlags struct {
	contexts    []string
	noCache     []string
	annotations []string
}

func (c *contextFlags) add(fl *pflag.FlagSet) {
	fl.StringArrayVar(&c.contexts, "build-context", nil, "let FROM, COPY --from and mounts find `NAME=VALUE`: a folder, docker-image://NAME, oci-layout://PATH, a git repository or a URL; may be repeated")
	fl.StringSliceVar(&c.noCache, "no-cache-filter", nil, "run the steps of `STAGE[,STAGE]`, even when nothing changed for them; may be repeated")
}

func (c *contextFlags) addAnnotation(fl *pflag.FlagSet) {
	fl.StringArrayVar(&c.annotations, "annotation", nil, "annotate the image's manifest with `KEY=VALUE`; may be repeated")
}

// complete makes the request of them.
func (c *contextFlags) complete(f *buildFlags) error {
	r := &f.request
	r.Annotations = c.annotations
	r.Contexts = map[string]string{}
	for _, kv := range c.contexts {
		name, value, ok := strings.Cut(kv, "=")
		if !ok || name == "" || value == "" {
			return &usageError{fmt.Errorf("--build-context %q: want NAME=VALUE", kv), "for example --build-context src=../src or --build-context golang=docker-image://golang:1.24"}
		}
		if err := whittle.CheckContext(name, value); err != nil {
			return &usageError{err, whittle.Hint(err)}
		}
		r.Contexts[name] = value
	}
	if r.NoCache && len(c.noCache) > 0 {
		return &usageError{errors.New("--no-cache-filter: does not go with --no-cache"), "--no-cache runs all steps; leave one of the two out"}
	}
	for _, s := range c.noCache {
		if s = strings.TrimSpace(s); s != "" {
			r.NoCacheStages = append(r.NoCacheStages, s)
		}
	}
	return nil
}
