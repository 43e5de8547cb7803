package whittle

import (
	"os"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image"
)

// WithoutProvider makes everything fail that w would mount.
func WithoutProvider(w *Whittle) { w.opt.Rootfs = "none at all" }

// NotePace has w think that a registry gave so many bytes in a time.
func NotePace(w *Whittle, domain string, bytes int64, took time.Duration) {
	w.notePace(image.Name{Domain: domain}, bytes, took)
}

// DropLayer removes a layer from w's store, as pruning does.
func DropLayer(w *Whittle, id digest.Digest) error { return os.RemoveAll(w.store.LayerDir(id)) }

// GuessedPace is what a registry is thought to give that was reached in a time, in bytes a second.
func GuessedPace(reach time.Duration) float64 { return guessedPace(reach) }
