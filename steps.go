package whittle

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/whittle-build/whittle/internal/dockerfile"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/rootfs"
	"github.com/whittle-build/whittle/internal/sandbox"
	"github.com/whittle-build/whittle/internal/solve"
	"github.com/whittle-build/whittle/internal/sshagent"
)

// SSH is an agent that steps may sign with: the socket of one, or files of
// private keys.
type SSH struct {
	ID    string // "default" unless a step asks for another
	Paths []string
}

// StepOptions are those of a build that are about its RUN steps only. The zero
// value is a usable default.
type StepOptions struct {
	SSH []SSH
	// Allow is what steps may ask for that shuts them off from the machine no
	// more: "network.host", "security.insecure".
	Allow        []string
	Ulimits      []plan.Ulimit
	ShmSize      int64  // of /dev/shm in bytes; 0 means 64 MiB
	CgroupParent string // control group under which steps run; "" means the caller's own
	Resources    sandbox.Resources
}

// Entitlements are what StepOptions.Allow may have.
func Entitlements() []string { return []string{"network.host", "security.insecure"} }

// UlimitNames are the names of limits.
func UlimitNames() []string { return sandbox.RlimitNames() }

func (o *StepOptions) limits() plan.Limits {
	return plan.Limits{Ulimits: o.Ulimits, ShmSize: o.ShmSize, CgroupParent: o.CgroupParent}
}

// openAgents opens what steps may sign with, before anything runs.
func (o *StepOptions) openAgents() (map[string]*sshagent.Source, error) {
	agents := map[string]*sshagent.Source{}
	for _, s := range o.SSH {
		src, err := sshagent.Open(s.Paths)
		if err != nil {
			return nil, fmt.Errorf("ssh %s: %w", s.ID, err)
		}
		agents[s.ID] = src
	}
	return agents, nil
}

// copies are what a step copies: what its mounts show counts as that.
func copies(s *plan.Step) []*plan.Copy {
	if s.Copy != nil {
		return []*plan.Copy{s.Copy}
	}
	if s.Run == nil {
		return nil
	}
	var out []*plan.Copy
	for i := range s.Run.Mounts {
		if s.Run.Mounts[i].Reads() {
			out = append(out, solve.MountJob(solve.Job{Step: s}, i).Step.Copy)
		}
	}
	return out
}

// checkMounts finds the sources of a RUN's mounts that do not exist, as far as
// what they are in is known before anything runs.
func (b *build) checkMounts(ctx context.Context, s *plan.Step) (dockerfile.Errors, error) {
	job := solve.Job{Step: s, Mounts: make([]rootfs.Chain, len(s.Run.Mounts))}
	var mistakes dockerfile.Errors
	for i := range s.Run.Mounts {
		m := &s.Run.Mounts[i]
		if !m.Reads() || m.From != nil && m.From.Step != nil {
			continue
		}
		if m.From != nil && m.From.Image != nil {
			job.Mounts[i] = chainOf(b.images[*m.From.Image])
		}
		found, err := b.local().Missing(ctx, solve.MountJob(job, i))
		if err != nil {
			return nil, err
		}
		mistakes = append(mistakes, found...)
	}
	return mistakes, nil
}

// allowed is what steps may have: asking for the machine's network for all of
// them allows it to each.
func (r *Request) allowed() []string {
	if r.Network == "host" && !slices.Contains(r.Allow, "network.host") {
		return append(slices.Clone(r.Allow), "network.host")
	}
	return r.Allow
}

// checkAllow refuses what nobody could be allowed.
func (o *StepOptions) checkAllow() error {
	for _, a := range o.Allow {
		if right, _, _ := strings.Cut(a, "="); right != "device" && !slices.Contains(Entitlements(), a) {
			return &hinted{fmt.Errorf("allow %s: unknown entitlement", a), "there are " + strings.Join(Entitlements(), " and ")}
		}
	}
	return nil
}
