package initproc

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestADeviceIsTakenByItsNumberOnly(t *testing.T) {
	dev, err := unix.Open("/dev", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(dev)
	if fd, err := openDevice(dev, "zero", 1, 3); err == nil {
		unix.Close(fd)
		t.Error("/dev/zero passed for /dev/null")
	}
	fd, err := openDevice(dev, "null", 1, 3)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
}

func TestTheDefaultCapabilitiesAreDockers(t *testing.T) {
	if got := capMask(); got != 0xa80425fb {
		t.Errorf("mask %x, want a80425fb", got)
	}
	if got := CapNames(); len(got) != 14 || got[0] != "CAP_CHOWN" {
		t.Errorf("names %v", got)
	}
}

func TestHomeIsAddedOnce(t *testing.T) {
	if got := withHome([]string{"A=b"}, "/h"); len(got) != 2 || got[1] != "HOME=/h" {
		t.Errorf("got %v", got)
	}
	if got := withHome([]string{"HOME=", "A=b"}, "/h"); len(got) != 2 {
		t.Errorf("got %v", got)
	}
}

// A file that says nothing true of itself must not cost more than it is worth.
func FuzzExplainExec(f *testing.F) {
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b[:4096])
	f.Add([]byte("#!/bin/sh\n"))
	f.Add([]byte("#!   \n"))
	f.Add([]byte("\x7fELF\x01\x02"))
	f.Fuzz(func(t *testing.T, b []byte) {
		name := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(name, b, 0o755); err != nil {
			t.Fatal(err)
		}
		explainExec(&StartError{Path: name, Err: unix.ENOENT})
		explainExec(&StartError{Path: name, Err: unix.ENOEXEC})
	})
}
