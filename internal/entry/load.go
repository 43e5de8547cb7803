package entry

import (
	"errors"
	"fmt"
	"io"
)

// A Loader reads whole small files of a file system, for one goroutine, and is
// good at one file after the other of one directory.
type Loader interface {
	// Load fills data with the content of path, a regular file that the file
	// system has listed with that size.
	Load(path string, data []byte) error
	// Close gives up what the loader keeps open.
	Close()
}

// LoaderOf returns the loader that fsys has, by a method of that name, or one
// that opens each file.
func LoaderOf(fsys FS) Loader {
	if l, ok := fsys.(interface{ Loader() Loader }); ok {
		return l.Loader()
	}
	return opener{fsys}
}

type opener struct{ FS }

func (o opener) Load(path string, data []byte) (err error) {
	f, err := o.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := io.ReadFull(f, data); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = errors.New("the file became shorter while it was read")
		}
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func (o opener) Close() {}
