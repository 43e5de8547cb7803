package whittle

// WithoutProvider makes everything fail that w would mount.
func WithoutProvider(w *Whittle) { w.opt.Rootfs = "none at all" }
