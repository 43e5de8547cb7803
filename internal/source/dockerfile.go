package source

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/nearest"
)

// maxText bounds what is read of a Dockerfile or an ignore file.
const maxText = 16 << 20

// FindDockerfile reads the Dockerfile for the context dir. file is what the
// user named, a path as any other, which may lie outside of dir; when it is
// "" the context's Dockerfile is meant, or else its dockerfile. path is the
// file's name for messages and for LoadIgnore.
//
// The context's own Dockerfile may be a symlink, but not one that leaves the
// context: a context is not trusted to choose other files of the caller.
func FindDockerfile(dir, file string) (path string, src []byte, err error) {
	if file != "" {
		src, err = readNamed(file)
		if own, base := filepath.Split(file); errors.Is(err, fs.ErrNotExist) && base == "Dockerfile" {
			if lower, lerr := readNamed(own + "dockerfile"); lerr == nil {
				return own + "dockerfile", lower, nil
			}
		}
		if errors.Is(err, fs.ErrNotExist) {
			return "", nil, missingFile(dir, file)
		}
		return file, src, err
	}
	if err := checkDir(dir); err != nil {
		return "", nil, err
	}
	for _, name := range []string{"Dockerfile", "dockerfile"} {
		path = filepath.Join(dir, name)
		src, err = readInside(dir, path)
		if !errors.Is(err, fs.ErrNotExist) {
			return path, src, err
		}
	}
	return "", nil, missingDefault(dir)
}

func checkDir(dir string) error {
	st, err := os.Stat(dir)
	if err == nil && !st.IsDir() {
		err = unix.ENOTDIR
	}
	if err != nil {
		return rootError(dir, err)
	}
	return nil
}

// readNamed reads a file that the user named: anything that ends, pipes
// included.
func readNamed(name string) ([]byte, error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrPermission) {
		return nil, &unreadable{show(name), "needed for the build", "let this user read the file (chmod)", err}
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readText(f, name)
}

// readInside reads the file name, which was not chosen by the user but found
// by its name, in dir or elsewhere. It must be a regular file; symlinks may
// lead to it that do not leave dir, or its own folder when it is outside of
// dir.
func readInside(dir, name string) ([]byte, error) {
	own, base := filepath.Split(name)
	rel, err := filepath.Rel(dir, name)
	if err != nil || !filepath.IsLocal(rel) {
		return readBelow(cmp.Or(own, "."), base, name)
	}
	src, err := readBelow(dir, rel, name)
	if err == nil || rel == base || errors.Is(err, fs.ErrNotExist) {
		return src, err
	}
	return readBelow(own, base, name) // the user's path may lead through a link
}

// readBelow reads rel, which messages call name, without leaving dir.
func readBelow(dir, rel, name string) ([]byte, error) {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrPermission) {
		return nil, rootError(dir, err)
	}
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.OpenFile(rel, os.O_RDONLY|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, lerr := root.Lstat(rel); lerr == nil {
			return nil, &Error{File: name, Msg: "is a symlink to a file that does not exist"}
		}
		return nil, err
	case err != nil && isLink(root, rel):
		if f, err = openInRoot(dir, rel); err == nil {
			break // an absolute link begins at the root of the context
		}
		if errors.Is(err, unix.ELOOP) {
			return nil, &Error{File: name, Msg: "is a symlink that leads to itself"}
		}
		return nil, &Error{File: name, Msg: "is a symlink that leads out of " + show(dir),
			Hint: "copy the file there, or name the file itself (a Dockerfile with -f)"}
	case errors.Is(err, fs.ErrPermission):
		return nil, &unreadable{show(name), "needed for the build", "let this user read the file (chmod)", err}
	case err != nil:
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, &Error{File: name, Msg: "is not a regular file"}
	}
	return readText(f, name)
}

// openInRoot opens rel as a process whose root is dir would.
func openInRoot(dir, rel string) (*os.File, error) {
	root, err := openRoot(dir)
	if err != nil {
		return nil, err
	}
	defer unix.Close(root)
	fd, err := unix.Openat2(root, rel, &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), rel), nil
}

// ReadDockerfile reads a Dockerfile that is not a file of the context, or not
// a file at all. name is for messages.
func ReadDockerfile(r io.Reader, name string) ([]byte, error) { return readText(r, name) }

func isLink(root *os.Root, rel string) bool {
	st, err := root.Lstat(rel)
	return err == nil && st.Mode()&fs.ModeSymlink != 0
}

func readText(f io.Reader, name string) ([]byte, error) {
	src, err := io.ReadAll(io.LimitReader(f, maxText+1))
	if errors.Is(err, unix.EISDIR) {
		return nil, &Error{File: name, Msg: "is a directory", Hint: "name the Dockerfile in it"}
	}
	if err != nil {
		return nil, err
	}
	if len(src) > maxText {
		return nil, &Error{File: name, Msg: fmt.Sprintf("is longer than %d MiB, which no Dockerfile or ignore file is", maxText>>20)}
	}
	return src, nil
}

// missingFile says what there is in place of the file that the user named.
func missingFile(dir, file string) error {
	e := &Error{File: file, Msg: "no such Dockerfile"}
	inside := filepath.Join(dir, file)
	if st, err := os.Stat(inside); err == nil && st.Mode().IsRegular() && inside != filepath.Clean(file) {
		e.Hint = fmt.Sprintf("-f is relative to the current directory, not to the context: write -f %s", show(inside))
		return e
	}
	if near := closeNames(filepath.Dir(file), filepath.Base(file)); len(near) > 0 {
		e.Hint = "did you mean " + orList(near) + "?"
		return e
	}
	there := closeNames(filepath.Dir(file), "Dockerfile")
	if filepath.Clean(dir) != filepath.Dir(file) {
		there = append(there, closeNames(dir, "Dockerfile")...)
	}
	if len(there) > 0 {
		e.Hint = "there is " + orList(there)
	} else {
		e.Hint = "name a file that exists, or - for standard input"
	}
	return e
}

// missingDefault says what there is in place of dir/Dockerfile.
func missingDefault(dir string) error {
	e := &Error{File: filepath.Join(dir, "Dockerfile"), Msg: "no such file, nor one named dockerfile"}
	near := closeNames(dir, "Dockerfile")
	switch {
	case len(near) > 0:
		e.Hint = fmt.Sprintf("did you mean %s? name it with -f", orList(near))
	case isEmpty(dir):
		e.Hint = "the directory is empty"
	default:
		e.Hint = "name the Dockerfile with -f"
	}
	return e
}

func isEmpty(dir string) bool {
	f, err := os.Open(dir)
	if err != nil {
		return false
	}
	defer f.Close()
	_, err = f.Readdirnames(1)
	return err == io.EOF
}

// closeNames lists the files of dir whose names are like name, as paths.
func closeNames(dir, name string) []string {
	f, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer f.Close()
	all, err := f.ReadDir(10000)
	if err != nil {
		return nil
	}
	var out []string
	for _, d := range all {
		if !d.IsDir() && alike(d.Name(), name) {
			out = append(out, filepath.Join(dir, d.Name()))
		}
	}
	slices.Sort(out)
	return out[:min(len(out), 4)]
}

// alike says whether somebody who wrote want may have meant have.
func alike(have, want string) bool {
	have, want = strings.ToLower(have), strings.ToLower(want)
	if strings.HasSuffix(have, ignoreSuffix) {
		return false
	}
	stem, _, _ := strings.Cut(want, ".")
	if stem == "dockerfile" && (strings.Contains(have, "dockerfile") || strings.HasPrefix(have, "containerfile")) {
		return true
	}
	return nearest.Distance(have, want) <= 2
}

// orList writes "a, b or c".
func orList(names []string) string {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = show(n)
	}
	last := len(quoted) - 1
	if last == 0 {
		return quoted[0]
	}
	return strings.Join(quoted[:last], ", ") + " or " + quoted[last]
}
