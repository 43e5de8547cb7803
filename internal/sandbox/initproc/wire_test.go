package initproc

import (
	"errors"
	"reflect"
	"syscall"
	"testing"
)

func fullSetup() *Setup {
	return &Setup{
		Join: 3, Args: []string{"a", ""}, Env: []string{"B=c"}, Dir: "/d", User: "u:g", Hostname: "h", OwnNet: true, Etc: true, EtcRO: true,
		Hosts: "hosts", ResolvConf: "resolv", ShmSize: 1 << 40, ReadOnly: true, NoNewPrivs: true, TTY: true, Filter: "\x00\xff",
		Mounts: []Mount{{Target: "/t", FD: -1, Sub: "s", ReadOnly: true, Options: []string{"o"}}, {Target: "/u", FD: 7, Options: []string{}}},
	}
}

func TestASetupArrivesAsItWasSent(t *testing.T) {
	want := fullSetup()
	got, err := decodeSetup(want.encode())
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}

func TestAReportArrivesAsItWasSent(t *testing.T) {
	for _, err := range []error{ErrNotInPath, syscall.ENOENT, errors.New("text")} {
		s := Stub{path: "a/b", dir: true, ino: 1 << 63, before: -5, after: 1 << 60}
		e := &StartError{Op: "o", Path: "p", Err: err, Interp: "i", Found: "f", Machine: "m"}
		r, derr := DecodeReport(append(encodeStub(s), encodeStartError(e)...))
		if derr != nil || !reflect.DeepEqual(r, Report{Stubs: []Stub{s}, Err: e}) {
			t.Errorf("got %+v, %v", r, derr)
		}
	}
}

func TestAMessageThatEndsEarlyIsAnError(t *testing.T) {
	b := fullSetup().encode()
	for n := range b {
		if _, err := decodeSetup(b[:n]); err == nil {
			t.Errorf("%d of %d bytes were enough", n, len(b))
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(fullSetup().encode())
	f.Add(encodeStub(Stub{path: "x"}))
	f.Add(encodeStartError(&StartError{Op: "o", Err: ErrNotInPath}))
	f.Fuzz(func(t *testing.T, b []byte) {
		decodeSetup(b)
		DecodeReport(b)
	})
}
