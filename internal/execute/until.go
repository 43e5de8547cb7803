package execute

import (
	"context"
	"io"
	"os"

	"github.com/whittle-build/whittle/internal/entry"
)

// until is a file system that can be read until its context ends, so that what
// walks or hashes a large one stops when the build does.
type until struct {
	ctx context.Context
	entry.FS
}

// ReadDir implements entry.FS.
func (u until) ReadDir(path string) ([]entry.Entry, error) { return u.AppendDir(nil, path) }

// AppendDir implements entry.Appender.
func (u until) AppendDir(list []entry.Entry, path string) ([]entry.Entry, error) {
	if u.ctx.Err() != nil {
		return nil, context.Cause(u.ctx)
	}
	return entry.AppendDir(u.FS, list, path)
}

// Open implements entry.FS. The file is what it is without until, so that who
// copies it may do so within the kernel; only hashing, which reads it all, goes
// through Read.
func (u until) Open(path string) (io.ReadCloser, error) {
	if u.ctx.Err() != nil {
		return nil, context.Cause(u.ctx)
	}
	return u.FS.Open(path)
}

// Loader implements entry.Loader's maker.
func (u until) Loader() entry.Loader { return loadUntil{u.ctx, entry.LoaderOf(u.FS)} }

type loadUntil struct {
	ctx context.Context
	entry.Loader
}

func (l loadUntil) Load(path string, data []byte) error {
	if l.ctx.Err() != nil {
		return context.Cause(l.ctx)
	}
	return l.Loader.Load(path, data)
}

// bare is fsys without until.
func bare(fsys entry.FS) entry.FS {
	if u, ok := fsys.(until); ok {
		return u.FS
	}
	return fsys
}

// forget drops the lists that fsys keeps, if it does: all of it has been listed.
func forget(fsys entry.FS) {
	if v, ok := fsys.(interface{ Forget() }); ok {
		v.Forget()
	}
}

// hashed is a file system whose files are read until its context ends.
type hashed struct{ until }

// Open implements entry.FS.
func (h hashed) Open(path string) (io.ReadCloser, error) {
	f, err := h.until.Open(path)
	if err != nil {
		return nil, err
	}
	return readUntil{h.ctx, f}, nil
}

type readUntil struct {
	ctx context.Context
	io.ReadCloser
}

func (r readUntil) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.ReadCloser.Read(p)
}

// verify says whether f, read to its end, is still the file whose digest is in
// the key. Only files of a build context can change; its loader verifies them
// itself.
func verify(fsys entry.FS, path string, f io.Reader) error {
	c, changes := bare(fsys).(interface {
		Verify(path string, f *os.File) error
	})
	file, opened := f.(*os.File)
	if !changes || !opened {
		return nil
	}
	return c.Verify(path, file)
}
