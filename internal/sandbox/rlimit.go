package sandbox

import "golang.org/x/sys/unix"

// rlimits are the limits by their names without RLIMIT_, in lower case.
var rlimits = []struct {
	name     string
	resource int
}{
	{"core", unix.RLIMIT_CORE}, {"cpu", unix.RLIMIT_CPU}, {"data", unix.RLIMIT_DATA}, {"fsize", unix.RLIMIT_FSIZE},
	{"locks", unix.RLIMIT_LOCKS}, {"memlock", unix.RLIMIT_MEMLOCK}, {"msgqueue", unix.RLIMIT_MSGQUEUE},
	{"nice", unix.RLIMIT_NICE}, {"nofile", unix.RLIMIT_NOFILE}, {"nproc", unix.RLIMIT_NPROC}, {"rss", unix.RLIMIT_RSS},
	{"rtprio", unix.RLIMIT_RTPRIO}, {"rttime", unix.RLIMIT_RTTIME}, {"sigpending", unix.RLIMIT_SIGPENDING},
	{"stack", unix.RLIMIT_STACK},
}

// RlimitNames are the names that NewRlimit knows.
func RlimitNames() []string {
	out := make([]string, len(rlimits))
	for i, r := range rlimits {
		out[i] = r.name
	}
	return out
}

// NewRlimit is the limit of this name; -1 is no limit.
func NewRlimit(name string, soft, hard int64) (Rlimit, bool) {
	for _, r := range rlimits {
		if r.name == name {
			return Rlimit{Resource: r.resource, Name: name, Soft: uint64(soft), Hard: uint64(hard)}, true
		}
	}
	return Rlimit{}, false
}
