package solve

import (
	"strings"

	"github.com/whittle-build/whittle/internal/digest"
)

// why says why a step is not taken from a cache.
func (r *run) why(job Job, key *digest.Key) string {
	if job.Fresh {
		return "because it was asked for, with --no-cache or --no-cache-filter"
	}
	if rec, err := r.Store.Record(r.Scope.Key(job.Key)); err == nil && r.Avoid != nil && r.Avoid(rec.Layer) {
		return "because its layer is elsewhere, and cannot be had or is sooner made again"
	}
	old := r.lastGood(job.Step)
	if old == nil {
		return "because nothing like it was built here before"
	}
	changes := r.compare("", job.Step, job.Step.Line.Text, key.Fields(), old)
	if len(changes) == 0 {
		return "though nothing changed: what it made before is not here any more"
	}
	return "because this changed: " + strings.Join(few(changes), "; ")
}
