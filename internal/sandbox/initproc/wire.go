package initproc

import (
	"encoding/binary"
	"errors"
)

// The caller and its init speak in length-prefixed fields: the init's whole
// life is a millisecond, and encoding/json or gob would take a good part of it
// to learn the types.

// encoder appends fields to b.
type encoder struct{ b []byte }

func (e *encoder) num(v int64) { e.b = binary.AppendVarint(e.b, v) }

func (e *encoder) str(s string) {
	e.num(int64(len(s)))
	e.b = append(e.b, s...)
}

func (e *encoder) flag(v bool) {
	if v {
		e.num(1)
		return
	}
	e.num(0)
}

func (e *encoder) strs(list []string) {
	e.num(int64(len(list)))
	for _, s := range list {
		e.str(s)
	}
}

var errShort = errors.New("message ends early")

// decoder reads fields in the order in which they were written. After the
// first error all that it returns is empty.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) num() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.err = errShort
		d.b = nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) str() string {
	n := d.num()
	if n < 0 || n > int64(len(d.b)) {
		d.err = errShort
		d.b = nil
		return ""
	}
	s := string(d.b[:n])
	d.b = d.b[n:]
	return s
}

func (d *decoder) flag() bool { return d.num() != 0 }

func (d *decoder) strs() []string {
	n := d.num()
	if n < 0 || n > int64(len(d.b)) { // every string takes a byte at least
		d.err = errShort
		return nil
	}
	list := make([]string, n)
	for i := range list {
		list[i] = d.str()
	}
	return list
}

// Setup is what an init is told: the caller's configuration with all that can
// be known outside already done.
type Setup struct {
	Join int64 // not 0: the namespaces to enter, instead of making a root
	// SharedPIDs says that the process is in the caller's pid namespace, and
	// that /proc is a view of the caller's.
	SharedPIDs bool

	Args, Env  []string
	Dir, User  string
	Hostname   string
	OwnNet     bool
	Etc        bool
	EtcRO      bool
	Hosts      string
	ResolvConf string
	Mounts     []Mount
	ShmSize    int64
	ReadOnly   bool
	NoNewPrivs bool
	TTY        bool
	Filter     string // BPF program, as the kernel reads it; "" is none
	Insecure   bool   // keep all rights
	Chroot     bool   // the root is a directory, ready to be entered; Filter has a listener
	Rlimits    []Rlimit
	Emulator   *Emulator

	rootFD int // where the root is
}

// Emulator is what runs the programs that begin with Magic, but for the bits
// that are not in Mask.
type Emulator struct {
	FD          int // the program
	Devices     int // what Devices returned; -1: this process's rights are the caller's
	Magic, Mask string
}

// Rlimit is a limit of setrlimit(2).
type Rlimit struct {
	Resource   int
	Name       string // for people
	Soft, Hard uint64
}

// Mount is something to mount at Target, which lies in the root; its source is
// an inherited descriptor.
type Mount struct {
	Target   string
	FD       int // -1: tmpfs
	Sub      string
	ReadOnly bool
	Options  []string
	File     *File // what to bind instead of FD
	tmpfs    bool  // FD is a new one
}

// File is a file that lies in memory only.
type File struct {
	Content  []byte
	Mode     uint32
	UID, GID int
}

// Message returns s as it is sent to an init: its length, then itself.
func (s *Setup) Message() []byte {
	var e encoder
	e.str(string(s.encode()))
	return e.b
}

func (s *Setup) encode() []byte {
	var e encoder
	e.num(s.Join)
	e.flag(s.SharedPIDs)
	e.strs(s.Args)
	e.strs(s.Env)
	e.str(s.Dir)
	e.str(s.User)
	e.str(s.Hostname)
	e.flag(s.OwnNet)
	e.flag(s.Etc)
	e.flag(s.EtcRO)
	e.str(s.Hosts)
	e.str(s.ResolvConf)
	e.num(int64(len(s.Mounts)))
	for _, m := range s.Mounts {
		e.str(m.Target)
		e.num(int64(m.FD))
		e.str(m.Sub)
		e.flag(m.ReadOnly)
		e.strs(m.Options)
		e.flag(m.File != nil)
		if f := m.File; f != nil {
			e.str(string(f.Content))
			e.num(int64(f.Mode))
			e.num(int64(f.UID))
			e.num(int64(f.GID))
		}
	}
	e.num(s.ShmSize)
	e.flag(s.ReadOnly)
	e.flag(s.NoNewPrivs)
	e.flag(s.TTY)
	e.str(s.Filter)
	e.flag(s.Insecure)
	e.flag(s.Chroot)
	e.num(int64(len(s.Rlimits)))
	for _, r := range s.Rlimits {
		e.num(int64(r.Resource))
		e.str(r.Name)
		e.num(int64(r.Soft))
		e.num(int64(r.Hard))
	}
	e.flag(s.Emulator != nil)
	if m := s.Emulator; m != nil {
		e.num(int64(m.FD))
		e.num(int64(m.Devices))
		e.str(m.Magic)
		e.str(m.Mask)
	}
	return e.b
}

func decodeSetup(b []byte) (*Setup, error) {
	d := decoder{b: b}
	s := &Setup{
		Join: d.num(), SharedPIDs: d.flag(), Args: d.strs(), Env: d.strs(), Dir: d.str(), User: d.str(),
		Hostname: d.str(), OwnNet: d.flag(), Etc: d.flag(), EtcRO: d.flag(), Hosts: d.str(), ResolvConf: d.str(),
	}
	for n := d.num(); n > 0 && d.err == nil; n-- {
		m := Mount{Target: d.str(), FD: int(d.num()), Sub: d.str(), ReadOnly: d.flag(), Options: d.strs()}
		if d.flag() {
			m.File = &File{Content: []byte(d.str()), Mode: uint32(d.num()), UID: int(d.num()), GID: int(d.num())}
		}
		s.Mounts = append(s.Mounts, m)
	}
	s.ShmSize, s.ReadOnly, s.NoNewPrivs, s.TTY, s.Filter = d.num(), d.flag(), d.flag(), d.flag(), d.str()
	s.Insecure, s.Chroot = d.flag(), d.flag()
	for n := d.num(); n > 0 && d.err == nil; n-- {
		s.Rlimits = append(s.Rlimits, Rlimit{Resource: int(d.num()), Name: d.str(), Soft: uint64(d.num()), Hard: uint64(d.num())})
	}
	if d.flag() {
		s.Emulator = &Emulator{FD: int(d.num()), Devices: int(d.num()), Magic: d.str(), Mask: d.str()}
	}
	return s, d.err
}

// The kinds of what an init reports.
const (
	reportStub  = 's'
	reportError = 'e'
	reportTTY   = 't' // comes with the terminal's descriptor
	reportWho   = 'w'

	reportListener = 'l' // comes with the filter's descriptor
)

// Stub is a mount point that the init made in the root. The times are the
// parent directory's mtime, in nanoseconds, before and after.
type Stub struct {
	path          string // physical, relative to the root
	dir           bool
	ino           uint64
	before, after int64
}

// Report is what an init tells: the stubs that it made, and what went wrong.
type Report struct {
	Stubs   []Stub
	Pid     int    // with Setup.SharedPIDs: the init
	MountNS uint64 // and the inode of its mount namespace
	Err     *StartError
}

func encodeWho(pid int, mountNS uint64) []byte {
	var e encoder
	e.num(reportWho)
	e.num(int64(pid))
	e.num(int64(mountNS))
	return e.b
}

// Refused is the report about an init that could not be started.
func Refused(err error) []byte {
	return encodeStartError(&StartError{Op: "namespace", Err: err})
}

func encodeStub(s Stub) []byte {
	var e encoder
	e.num(reportStub)
	e.str(s.path)
	e.flag(s.dir)
	e.num(int64(s.ino))
	e.num(s.before)
	e.num(s.after)
	return e.b
}

// DecodeReport reads all that an init has sent.
func DecodeReport(b []byte) (Report, error) {
	var r Report
	d := decoder{b: b}
	for len(d.b) > 0 && d.err == nil {
		switch d.num() {
		case reportStub:
			r.Stubs = append(r.Stubs, Stub{path: d.str(), dir: d.flag(), ino: uint64(d.num()), before: d.num(), after: d.num()})
		case reportError:
			r.Err = decodeStartError(&d)
		case reportWho:
			r.Pid, r.MountNS = int(d.num()), uint64(d.num())
		case reportTTY, reportListener:
		default:
			return r, errors.New("unknown Report")
		}
	}
	return r, d.err
}
