package whittle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// MaxSecret is how many bytes a secret has at most, as in the reference
// builder.
const MaxSecret = 500 << 10

// Secret is a value that a build may use and that is kept nowhere: in no
// layer, key, record or log.
type Secret struct {
	ID    string
	File  string // is read when the build asks; "" means Value
	Value []byte
}

// Secret returns the secret called id, and whether there is one. It may be a
// pipe that nobody writes to: then the reading is left behind when ctx ends.
func (r *Request) Secret(ctx context.Context, id string) ([]byte, bool, error) {
	for i := range r.Secrets {
		if s := &r.Secrets[i]; s.ID == id {
			b, err := until(ctx, s.read)
			return b, true, err
		}
	}
	return nil, false, nil
}

func (s *Secret) read() ([]byte, error) {
	if s.File == "" {
		return s.Value, s.checkSize(int64(len(s.Value)))
	}
	f, err := os.Open(s.File)
	if err != nil {
		return nil, s.unreadable(err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, MaxSecret+1))
	if err != nil {
		return nil, s.unreadable(err)
	}
	return b, s.checkSize(int64(len(b)))
}

// check finds what would keep read from working. A pipe, which can be read
// once, is left alone.
func (s *Secret) check() error {
	if s.File == "" {
		return s.checkSize(int64(len(s.Value)))
	}
	st, err := os.Stat(s.File)
	if err != nil {
		return s.unreadable(err)
	}
	if st.IsDir() {
		return &hinted{fmt.Errorf("secret %s: %s: is a folder", s.ID, s.File), "name the file that holds the value: --secret id=" + s.ID + ",src=FILE"}
	}
	return s.checkSize(st.Size())
}

func (s *Secret) unreadable(err error) error {
	hint := "is this user allowed to read it?"
	if errors.Is(err, fs.ErrNotExist) {
		hint = "--secret id=" + s.ID + ",src=FILE names a file, and --secret id=" + s.ID + ",env=NAME a variable"
	}
	return &hinted{fmt.Errorf("secret %s: %w", s.ID, err), hint}
}

func (s *Secret) checkSize(n int64) error {
	if n > MaxSecret {
		return &hinted{fmt.Errorf("secret %s: larger than %d bytes", s.ID, MaxSecret),
			"a secret is a key or a password; bind a larger file with RUN --mount=type=bind"}
	}
	return nil
}

// checkSecrets looks at every secret before anything runs.
func (r *Request) checkSecrets() error {
	for i := range r.Secrets {
		if err := r.Secrets[i].check(); err != nil {
			return err
		}
	}
	return nil
}
