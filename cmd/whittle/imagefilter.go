package main

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/whittle-build/whittle"
	"github.com/whittle-build/whittle/internal/image"
)

// imageFilters are values by key: of one key any may fit, of all keys one must.
type imageFilters map[string][]string

func parseImageFilters(list []string) (imageFilters, error) {
	const keys = "there are dangling=true, dangling=false, reference=, label=, before= and since="
	out := imageFilters{}
	for _, f := range list {
		k, v, _ := strings.Cut(f, "=")
		switch k {
		case "dangling":
			b, err := strconv.ParseBool(v)
			if err != nil {
				return nil, &usageError{fmt.Errorf("--filter %q: want true or false", f), keys}
			}
			v = strconv.FormatBool(b)
		case "reference":
			if _, err := path.Match(v, ""); err != nil {
				return nil, &usageError{fmt.Errorf("--filter %q: %w", f, err), "a pattern has *, ? and [a-z]"}
			}
		case "label", "before", "since":
		default:
			return nil, &usageError{fmt.Errorf("--filter %q: unknown", f), keys}
		}
		if v == "" {
			return nil, &usageError{fmt.Errorf("--filter %q: no value", f), keys}
		}
		out[k] = append(out[k], v)
	}
	return out, nil
}

// choose keeps what fits, of the names too when they are asked for.
func (f imageFilters) choose(w *whittle.Whittle, list []image.Summary) ([]image.Summary, error) {
	before, err := createdOf(w, f["before"])
	if err != nil {
		return nil, err
	}
	since, err := createdOf(w, f["since"])
	if err != nil {
		return nil, err
	}
	var out []image.Summary
	for _, s := range list {
		if patterns := f["reference"]; patterns != nil {
			s.Names = slices.DeleteFunc(slices.Clone(s.Names), func(n image.Name) bool { return !matchReference(n, patterns) })
			if len(s.Names) == 0 {
				continue
			}
		}
		made := s.Image.Created
		if f.fits("dangling", func(v string) bool { return v == strconv.FormatBool(s.Dangling()) }) &&
			f.fits("label", func(v string) bool { return matchLabel(s.Image.Config.Config.Labels, v) }) &&
			fitsAny(before, made.Before) && fitsAny(since, made.After) {
			out = append(out, s)
		}
	}
	return out, nil
}

func (f imageFilters) fits(key string, test func(v string) bool) bool { return fitsAny(f[key], test) }

// fitsAny is true as well when nothing is asked for.
func fitsAny[T any](values []T, test func(T) bool) bool {
	return len(values) == 0 || slices.ContainsFunc(values, test)
}

func createdOf(w *whittle.Whittle, refs []string) ([]time.Time, error) {
	var out []time.Time
	for _, ref := range refs {
		s, err := w.Image(ref)
		if err != nil {
			return nil, err
		}
		out = append(out, s.Image.Created)
	}
	return out, nil
}

// matchReference compares as docker does: with the tag or without.
func matchReference(n image.Name, patterns []string) bool {
	repository := n.FamiliarRepository()
	return slices.ContainsFunc(patterns, func(p string) bool {
		bare, _ := path.Match(p, repository)
		tagged, _ := path.Match(p, repository+":"+n.Tag)
		return bare || tagged
	})
}

// matchLabel finds a label k, or k=v with that value.
func matchLabel(labels map[string]string, v string) bool {
	k, want, valued := strings.Cut(v, "=")
	have, ok := labels[k]
	return ok && (!valued || have == want)
}
