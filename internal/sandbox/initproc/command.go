package initproc

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// defaultPath is where commands are looked for when the environment has no
// PATH.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// lookPath finds the command name as execvp(3) would, with env's PATH.
func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	list := defaultPath
	for _, v := range env {
		if p, ok := strings.CutPrefix(v, "PATH="); ok {
			list = p
		}
	}
	for dir := range strings.SplitSeq(list, ":") {
		if dir == "" {
			dir = "."
		}
		file := dir + "/" + name
		if isFile(file) && unix.Faccessat(unix.AT_FDCWD, file, unix.X_OK, unix.AT_EACCESS) == nil {
			return file, nil
		}
	}
	return "", ErrNotInPath
}

func isFile(name string) bool {
	var st unix.Stat_t
	return unix.Stat(name, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG
}

// elsewhere returns where a file called name is that PATH does not lead to.
func elsewhere(name string) string {
	if isFile("/" + name) {
		return "/" + name
	}
	if wd, err := unix.Getwd(); err == nil && isFile(name) {
		return path.Join(wd, name)
	}
	return ""
}

// explainExec finds out why the kernel would not execute e.Path.
func explainExec(e *StartError) {
	switch e.Err {
	case unix.ENOENT:
		if isFile(e.Path) {
			e.Interp = missingInterp(e.Path)
		}
	case unix.ENOEXEC, unix.ELIBBAD, unix.EINVAL:
		if h, ok := readELF(e.Path); ok && h.machine != nativeMachine {
			e.Machine = strings.ToLower(strings.TrimPrefix(h.machine.String(), "EM_"))
		}
	}
}

// missingInterp follows the interpreters of file, as binfmt_script(5) and
// ld.so(8) have them, to one that does not exist.
func missingInterp(file string) string {
	for range 5 { // more the kernel does not follow
		interp := interpOf(file)
		if interp == "" || !isFile(interp) {
			return interp
		}
		file = interp
	}
	return ""
}

// interpOf returns the interpreter that a script or an ELF file names.
func interpOf(file string) string {
	head := readPart(file, 0, 256) // as the kernel's BINPRM_BUF_SIZE
	if line, ok := bytes.CutPrefix(head, []byte("#!")); ok {
		line, _, _ = bytes.Cut(line, []byte("\n"))
		if f := bytes.Fields(line); len(f) > 0 {
			return string(f[0])
		}
		return ""
	}
	h, ok := readELF(file)
	if !ok {
		return ""
	}
	return h.interp
}

type elfHead struct {
	machine elf.Machine
	interp  string
}

// Loader returns what loads the program of the host called name, "" if it is
// static, and false if it is no program.
func Loader(name string) (string, bool) {
	h, ok := readELF(name)
	return h.interp, ok
}

// readELF reads as little as possible of a file that may be anything.
func readELF(file string) (elfHead, bool) {
	var h elfHead
	b := readPart(file, 0, 64)
	if len(b) < 52 || string(b[:4]) != elf.ELFMAG {
		return h, false
	}
	var order binary.ByteOrder = binary.LittleEndian
	if elf.Data(b[elf.EI_DATA]) == elf.ELFDATA2MSB {
		order = binary.BigEndian
	}
	h.machine = elf.Machine(order.Uint16(b[18:]))
	if elf.Class(b[elf.EI_CLASS]) == elf.ELFCLASS64 && len(b) == 64 {
		h.interp = segment(file, order, order.Uint64(b[32:]), int(order.Uint16(b[54:])), int(order.Uint16(b[56:])), true)
		return h, true
	}
	h.interp = segment(file, order, uint64(order.Uint32(b[28:])), int(order.Uint16(b[42:])), int(order.Uint16(b[44:])), false)
	return h, true
}

// segment returns the text of the PT_INTERP segment.
func segment(file string, order binary.ByteOrder, at uint64, size, count int, wide bool) string {
	least := 32
	if wide {
		least = 56
	}
	if size < least || at > 1<<30 {
		return ""
	}
	heads := readPart(file, int64(at), size*min(count, 128))
	for ; len(heads) >= size; heads = heads[size:] {
		if elf.ProgType(order.Uint32(heads)) != elf.PT_INTERP {
			continue
		}
		off, n := uint64(order.Uint32(heads[4:])), uint64(order.Uint32(heads[16:]))
		if wide {
			off, n = order.Uint64(heads[8:]), order.Uint64(heads[32:])
		}
		if off > 1<<40 || n > unix.PathMax {
			return ""
		}
		text, _, _ := bytes.Cut(readPart(file, int64(off), int(n)), []byte{0})
		return string(text)
	}
	return ""
}

// readPart returns up to n bytes of file from off on; none if it cannot.
func readPart(file string, off int64, n int) []byte {
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	b := make([]byte, n)
	got, err := unix.Pread(fd, b, off)
	if err != nil {
		return nil
	}
	return b[:got]
}
