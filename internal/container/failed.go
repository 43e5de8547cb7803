package container

import (
	"context"
	"errors"
	"os"
	"path/filepath"
)

// FailedStep says of which step of a build a container has the root. It was
// made from no image.
type FailedStep struct {
	Build string `json:"build"` // its log, see store.FindLog
	Label string `json:"label"`
}

// LatestFailed is what Find takes for the root that was kept last, when no
// container has that name.
const LatestFailed = "FAILED"

func (s *Set) latestFailed() (*Container, error) {
	list, err := s.List()
	if err != nil {
		return nil, err
	}
	for _, c := range list {
		if c.Failed != nil {
			return c, nil
		}
	}
	return nil, &Error{Msg: LatestFailed + ": no root of a failed step is kept", Way: "build with --on-failure keep", Err: ErrNotFound}
}

// maxFailed is how many roots of failed steps are kept.
const maxFailed = 10

// Keep makes a container of the root of a failed step: upper, which is moved
// into it, on c.Chain; "" is none. The oldest of many go. A crash leaves upper where it
// was, or in a container.
func (s *Set) Keep(ctx context.Context, c Container, upper string) (*Container, error) {
	made, err := s.Create(c)
	if err != nil {
		return nil, err
	}
	dir, err := s.folder(made)
	if err == nil && upper != "" {
		err = os.Rename(upper, filepath.Join(dir, upperName))
	}
	if err != nil {
		return nil, errors.Join(err, s.remove(made))
	}
	return made, s.trimFailed(ctx, maxFailed, func(*Container) bool { return true })
}

// trimFailed removes roots of failed steps of which gone says so, all but the
// youngest.
func (s *Set) trimFailed(ctx context.Context, youngest int, gone func(*Container) bool) error {
	list, err := s.List()
	if err != nil {
		return err
	}
	n := 0
	for _, c := range list {
		if c.Failed == nil {
			continue
		}
		if n++; n <= youngest || c.Running || !gone(c) {
			continue
		}
		if err := s.Remove(ctx, c, false); err != nil && !errors.Is(err, ErrRunning) {
			return err
		}
	}
	return nil
}

// PruneFailed removes the kept roots of failed steps of which gone says so, and
// returns how many and how many bytes they had.
func (s *Set) PruneFailed(ctx context.Context, gone func(*Container) bool) (n int, bytes int64, err error) {
	err = s.trimFailed(ctx, 0, func(c *Container) bool {
		if !gone(c) {
			return false
		}
		if size, err := s.Written(c); err == nil {
			bytes += size
		}
		n++
		return true
	})
	return n, bytes, err
}
