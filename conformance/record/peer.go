package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	"github.com/whittle-build/whittle/conformance/suite"
	"github.com/whittle-build/whittle/test/buildkitd"
)

// buildWith runs buildctl and returns the lint warnings, and the error if there is
// one.
func buildWith(d *buildkitd.Daemon, c *suite.Case, args []string) (lint []string, failed string) {
	cmd := d.Command(context.Background(), append([]string{"build", "--frontend", "dockerfile.v0", "--progress", "rawjson"}, args...)...)
	cmd.Dir = c.Dir
	cmd.Env = append(cmd.Env, c.Env...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	err := cmd.Run()
	var rest []string
	for line := range strings.SplitSeq(said.String(), "\n") {
		if strings.HasPrefix(line, "{") {
			lint = append(lint, warnings(line)...)
			continue
		}
		rest = append(rest, line)
	}
	if err == nil {
		return suite.SortLint(lint), ""
	}
	return suite.SortLint(lint), errorText(strings.Join(rest, "\n"))
}

func warnings(line string) []string {
	var status struct {
		Warnings []struct {
			Short []byte
			URL   string
			Range []struct{ Start struct{ Line int } }
		}
	}
	if json.Unmarshal([]byte(line), &status) != nil {
		return nil
	}
	var list []string
	for _, w := range status.Warnings {
		if !strings.Contains(w.URL, "/dockerfile/rule/") || len(w.Range) == 0 {
			continue
		}
		n := w.Range[0].Start.Line
		list = append(list, fmt.Sprintf("%d %s", n, strings.TrimSuffix(string(w.Short), fmt.Sprintf(" (line %d)", n))))
	}
	return list
}

// mounted is where the peer has, on its own machine, what it copies to and
// from.
var mounted = regexp.MustCompile(`/[^ :]*/(cachemounts/buildkit[0-9]+|snapshots/snapshots/[0-9]+/fs)`)

// random matches the ids of results, which are others in each run.
var random = regexp.MustCompile(`[a-z0-9]{25}(::[a-z0-9]{25})?`)

// errorText is what buildctl says at last, without what leads up to it.
func errorText(said string) string {
	if i := strings.LastIndex(said, "error: "); i >= 0 {
		said = said[i+len("error: "):]
	}
	said = strings.TrimPrefix(strings.TrimSpace(said), "failed to solve: ")
	return random.ReplaceAllString(mounted.ReplaceAllString(said, ""), "ID")
}
