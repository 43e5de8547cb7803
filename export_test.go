package whittle

import (
	"time"

	"github.com/whittle-build/whittle/internal/image"
)

// WithoutProvider makes everything fail that w would mount.
func WithoutProvider(w *Whittle) { w.opt.Rootfs = "none at all" }

// NotePace has w think that a registry gave so many bytes in a time.
func NotePace(w *Whittle, domain string, bytes int64, took time.Duration) {
	w.notePace(image.Name{Domain: domain}, bytes, took)
}
