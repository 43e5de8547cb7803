package whittle

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// WriteFile writes a file that is whole or not there, with the mode of the one that it
// replaces. A link is followed, and a device or a pipe is written to: a rename would put a
// file in its place.
func WriteFile(name string, write func(io.Writer) error) error {
	d, err := writeBeside(name, write)
	if err != nil {
		return err
	}
	return d.land()
}

// draft is a file that is whole, and not in its place yet.
type draft struct{ tmp, name string }

// writeBeside writes what land puts into its place, and forget removes. Into a device or a
// pipe it is written at once.
func writeBeside(name string, write func(io.Writer) error) (d draft, err error) {
	mode := fs.FileMode(0o666)
	st, err := os.Stat(name)
	switch {
	case err == nil && !st.Mode().IsRegular():
		return d, writeInto(name, write)
	case err == nil:
		mode = st.Mode().Perm()
	}
	d.name = landing(name)
	f, err := createBeside(d.name, mode)
	if err != nil {
		return d, opening(name, err)
	}
	d.tmp = f.Name()
	if st != nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = write(f)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		d.forget()
	}
	return d, err
}

func (d draft) land() error {
	if d.tmp == "" {
		return nil
	}
	err := os.Rename(d.tmp, d.name)
	if err != nil {
		d.forget()
	}
	return err
}

func (d draft) forget() {
	if d.tmp != "" {
		os.Remove(d.tmp)
	}
}

func createBeside(name string, mode fs.FileMode) (*os.File, error) {
	return os.OpenFile(filepath.Join(filepath.Dir(name), ".whittle-"+rand.Text()[:12]), os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
}

// opening is an error about the file that somebody has named, and not the one beside it.
func opening(name string, err error) error {
	if path := (*fs.PathError)(nil); errors.As(err, &path) {
		err = path.Err
	}
	return &fs.PathError{Op: "open", Path: name, Err: err}
}

func writeInto(name string, write func(io.Writer) error) (err error) {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return write(f)
}

// CheckFile finds what would keep WriteFile from writing a file. Only making one in its folder
// tells that of all file systems.
func CheckFile(name string) error {
	st, err := os.Stat(name)
	switch {
	case err == nil && st.IsDir():
		return &hinted{fmt.Errorf("%s: is a folder", name), "name a file in it"}
	case err == nil && !st.Mode().IsRegular():
		return nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	f, err := createBeside(landing(name), 0o600)
	if err != nil {
		return opening(name, err)
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// maxLinks bounds how many links are followed that lead to what is not there.
const maxLinks = 40

// landing is where a file lies that is written under a name, whether it is there yet or
// not: no part of it is a link.
func landing(name string) string {
	if !filepath.IsAbs(name) {
		dir, err := os.Getwd()
		if err != nil {
			return name
		}
		name = dir + "/" + name // not cleaned: .. after a link is where that leads
	}
	at, rest := name, ""
	for links := 0; ; {
		if to, err := filepath.EvalSymlinks(at); err == nil {
			return filepath.Join(to, rest)
		}
		dir, base := filepath.Split(strings.TrimRight(at, "/"))
		to, err := os.Readlink(at)
		if links++; err == nil && links < maxLinks {
			if at = to; !filepath.IsAbs(to) {
				at = landing(dir) + "/" + to
			}
			continue
		}
		if base == "" {
			return filepath.Join(at, rest)
		}
		at, rest = dir, filepath.Join(base, rest)
	}
}
