package layer

import (
	"archive/tar"
	"errors"
	"io"
	"time"
)

// HasLater reports whether a layer's tar has a time later than at.
func HasLater(r io.Reader, at time.Time) (bool, error) {
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if clamp(h, at) {
			return true, nil
		}
	}
}

// ClampTimes copies a layer's tar, with times that are later than at set to that.
func ClampTimes(w io.Writer, r io.Reader, at time.Time) error {
	tr, tw := tar.NewReader(r), tar.NewWriter(w)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return tw.Close()
		}
		if err != nil {
			return err
		}
		clamp(h, at)
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(tw, tr); err != nil {
			return err
		}
	}
}

// clamp sets times of h back to at, and reports whether one was later.
func clamp(h *tar.Header, at time.Time) (later bool) {
	for _, t := range []*time.Time{&h.ModTime, &h.AccessTime, &h.ChangeTime} {
		if t.After(at) {
			*t, later = at, true
		}
	}
	return later
}
