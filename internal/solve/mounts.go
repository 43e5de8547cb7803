package solve

import (
	"context"
	"strings"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/rootfs"
)

// MountJob is what mount i of job's RUN reads, as the copy of it into an empty
// root: what exists, what it contains and what is wrong with it are the same
// questions for both.
func MountJob(job Job, i int) Job {
	m := &job.Step.Run.Mounts[i]
	s := *job.Step
	s.Run = nil
	s.Copy = &plan.Copy{
		Sources: []string{literal(m.Source)}, Dest: "/", From: m.From, FromText: m.FromText, FromStage: m.FromStage,
	}
	out := Job{Step: &s, Vertex: job.Vertex}
	if i < len(job.Mounts) {
		out.From = job.Mounts[i]
	}
	return out
}

// literal is a name as a pattern that matches nothing else.
func literal(name string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `[*]`, `?`, `[?]`, `[`, `[[]`).Replace(name)
}

// waitMounts returns the chains that the mounts of a RUN read, once they are
// there.
func (r *run) waitMounts(ctx context.Context, s *plan.Step) ([]rootfs.Chain, error) {
	if s.Run == nil || len(s.Run.Mounts) == 0 {
		return nil, nil
	}
	out := make([]rootfs.Chain, len(s.Run.Mounts))
	for i, m := range s.Run.Mounts {
		if m.From == nil {
			continue
		}
		var err error
		if out[i], err = r.wait(ctx, s.Stage, *m.From); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// mountKeys adds the content of what the step can read in its mounts.
func (r *run) mountKeys(ctx context.Context, k *digest.Key, job Job) error {
	for i, m := range job.Step.Run.Mounts {
		if !m.Reads() {
			continue
		}
		d, err := r.Contents.Content(ctx, MountJob(job, i))
		if err != nil {
			return err
		}
		k.Digest("mount.content", d)
	}
	return nil
}
