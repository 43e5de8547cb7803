package sandbox

import (
	"bufio"
	"bytes"
	"encoding/hex"
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
// architecture, as Go calls it: its own ones, or those that binfmt_misc has an
// emulator for. dir is BinfmtDir.
func CanRun(arch, dir string) bool {
	switch own := runtime.GOARCH; {
	case arch == own, own == "amd64" && arch == "386", own == "arm64" && arch == "arm":
		return true
	}
	head := elfHeader(arch)
	if head == nil {
		return false
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, e := range entries {
		if e.Name() != "register" && e.Name() != "status" && emulates(filepath.Join(dir, e.Name()), head) {
			return true
		}
	}
	return false
}

// elfHeader is the beginning of a program for arch (elf(5)); nil when it is not
// known.
func elfHeader(arch string) []byte {
	const (
		class32, class64 = 1, 2
		little, big      = 1, 2
	)
	of := map[string]struct {
		class, order byte
		machine      uint16
	}{
		"386": {class32, little, 3}, "amd64": {class64, little, 62}, "arm": {class32, little, 40}, "arm64": {class64, little, 183},
		"riscv64": {class64, little, 243}, "ppc64le": {class64, little, 21}, "s390x": {class64, big, 22}, "loong64": {class64, little, 258},
		"mips": {class32, big, 8}, "mipsle": {class32, little, 8}, "mips64": {class64, big, 8}, "mips64le": {class64, little, 8},
	}[arch]
	if of.class == 0 {
		return nil
	}
	h := make([]byte, 20)
	copy(h, "\x7fELF")
	h[4], h[5], h[6] = of.class, of.order, 1
	executable, machine := [2]byte{2, 0}, [2]byte{byte(of.machine), byte(of.machine >> 8)}
	if of.order == big {
		executable, machine = [2]byte{0, 2}, [2]byte{byte(of.machine >> 8), byte(of.machine)}
	}
	copy(h[16:], executable[:])
	copy(h[18:], machine[:])
	return h
}

// emulates reads an entry of binfmt_misc and reports whether it takes programs
// that begin with head. An interpreter that is not open already (flag F) would
// be looked for in the step's own root, where it is not.
func emulates(name string, head []byte) bool {
	f, err := os.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	var enabled, fixed bool
	var magic, mask []byte
	offset := 0
	for s := bufio.NewScanner(io.LimitReader(f, 64<<10)); s.Scan(); {
		key, value, _ := strings.Cut(s.Text(), " ")
		switch key {
		case "enabled":
			enabled = true
		case "flags:":
			fixed = strings.Contains(value, "F")
		case "offset":
			offset, err = strconv.Atoi(value)
		case "magic":
			magic, err = hex.DecodeString(value)
		case "mask":
			mask, err = hex.DecodeString(value)
		}
		if err != nil {
			return false
		}
	}
	if !enabled || !fixed || offset != 0 || len(magic) == 0 || len(magic) > len(head) {
		return false
	}
	masked := func(b []byte) []byte {
		out := bytes.Clone(b[:len(magic)])
		for i := range min(len(mask), len(out)) {
			out[i] &= mask[i]
		}
		return out
	}
	return bytes.Equal(masked(head), masked(magic))
}
