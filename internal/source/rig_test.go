package source

import (
	"errors"
	"io"
	"os"
	"path/filepath"
)

// replaceFile is the PutCache of tests, which have no store.
func replaceFile(name string) func(func(io.Writer) error) error {
	return func(write func(io.Writer) error) error {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			return err
		}
		f, err := os.CreateTemp(filepath.Dir(name), "statcache-*")
		if err != nil {
			return err
		}
		if err := errors.Join(write(f), f.Close()); err != nil {
			return errors.Join(err, os.Remove(f.Name()))
		}
		return os.Rename(f.Name(), name)
	}
}
