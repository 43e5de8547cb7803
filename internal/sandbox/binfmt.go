package sandbox

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

// BinfmtDir is where the kernel tells which programs it runs by an interpreter
// (binfmt_misc).
const BinfmtDir = "/proc/sys/fs/binfmt_misc"

// CanRun reports whether this machine runs the Linux programs of an
// architecture, as Go calls it, in any root: its own ones, or those that
// binfmt_misc has an emulator for. dir is BinfmtDir.
func CanRun(arch, dir string) bool {
	h, ok := handlerOf(arch, dir)
	return native(arch) || ok && h.fixed
}

// native reports whether this machine's processor runs programs for arch.
func native(arch string) bool {
	own := runtime.GOARCH
	return arch == own || own == "amd64" && arch == "386" || own == "arm64" && arch == "arm"
}

// handlerOf returns the entry of binfmt_misc for programs of arch, one that
// needs nothing of the root before one that does.
func handlerOf(arch, dir string) (found handler, ok bool) {
	head := elfHeader(arch)
	entries, err := os.ReadDir(dir)
	if err != nil || head == nil {
		return found, false
	}
	if b, err := os.ReadFile(filepath.Join(dir, "status")); err == nil && string(bytes.TrimSpace(b)) == "disabled" {
		return found, false
	}
	for _, e := range entries {
		if e.Name() == "register" || e.Name() == "status" {
			continue
		}
		h, err := readHandler(filepath.Join(dir, e.Name()))
		if err == nil && h.takes(head) && !found.fixed {
			found, ok = h, true
		}
	}
	return found, ok
}

// handler is an entry of binfmt_misc that is enabled.
type handler struct {
	interpreter string
	// fixed says that the interpreter is open already (flag F). Another one is
	// looked for in the root of whoever runs the program.
	fixed       bool
	magic, mask []byte
}

var errNoHandler = errors.New("no enabled entry by magic")

func readHandler(name string) (h handler, err error) {
	f, err := os.Open(name)
	if err != nil {
		return h, err
	}
	defer f.Close()
	enabled, offset := false, 0
	for s := bufio.NewScanner(io.LimitReader(f, 64<<10)); s.Scan() && err == nil; {
		key, value, _ := strings.Cut(s.Text(), " ")
		switch key {
		case "enabled":
			enabled = true
		case "interpreter":
			h.interpreter = value
		case "flags:":
			h.fixed = strings.Contains(value, "F")
		case "offset":
			offset, err = strconv.Atoi(value)
		case "magic":
			h.magic, err = hex.DecodeString(value)
		case "mask":
			h.mask, err = hex.DecodeString(value)
		}
	}
	if err == nil && (!enabled || offset != 0 || len(h.magic) == 0) {
		err = errNoHandler
	}
	return h, err
}

// takes reports whether the handler runs programs that begin with head.
func (h *handler) takes(head []byte) bool {
	if len(h.magic) > len(head) {
		return false
	}
	masked := func(b []byte) []byte {
		out := bytes.Clone(b[:len(h.magic)])
		for i := range min(len(h.mask), len(out)) {
			out[i] &= h.mask[i]
		}
		return out
	}
	return bytes.Equal(masked(head), masked(h.magic))
}
