package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ownMap is an id map that a process may write for its child by itself.
type ownMap struct {
	uids, gids []syscall.SysProcIDMap
	groups     bool // setgroups(2) is allowed
}

// oneID maps this user alone, which everybody may.
func oneID() *ownMap {
	return &ownMap{
		uids: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}},
		gids: []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}},
	}
}

// sameIDs maps to itself every id that there is in this user namespace, as its
// root may, who has CAP_SETUID, CAP_SETGID and CAP_SETFCAP.
func sameIDs() (*ownMap, error) {
	groups, err := os.ReadFile("/proc/self/setgroups")
	if err != nil {
		return nil, err
	}
	m := &ownMap{groups: strings.TrimSpace(string(groups)) != "deny"}
	for _, f := range []struct {
		file string
		to   *[]syscall.SysProcIDMap
	}{{"/proc/self/uid_map", &m.uids}, {"/proc/self/gid_map", &m.gids}} {
		b, err := os.ReadFile(f.file)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(b)) {
			var r syscall.SysProcIDMap
			var outside int64
			if _, err := fmt.Sscan(line, &r.ContainerID, &outside, &r.Size); err != nil {
				return nil, fmt.Errorf("%s: %q: %w", f.file, line, err)
			}
			r.HostID = r.ContainerID
			*f.to = append(*f.to, r)
		}
	}
	return m, nil
}

// allIDs is sameIDs for a process that is to know it is in another user
// namespace. A map of all numbers is how the machine's first one is known; the
// last number is nobody's.
func allIDs() (*ownMap, error) {
	m, err := sameIDs()
	if err != nil {
		return nil, err
	}
	if u, g := &m.uids[0], &m.gids[0]; u.Size == 1<<32-1 {
		u.Size, g.Size = u.Size-1, g.Size-1
	}
	return m, nil
}

// subordinateIDs returns what maps the subordinate ids of the user uid, or a
// *UserNSError that says why there are none.
func subordinateIDs(uid int) (uids, gids []idRange, m idMappers, err error) {
	if nnp, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); err == nil && nnp != 0 {
		return nil, nil, nil, &UserNSError{
			Msg: "no_new_privs is set, so newuidmap cannot give a user more than one id",
			Way: "leave out --security-opt no-new-privileges (Docker), set allowPrivilegeEscalation: true (Kubernetes); " +
				"and as root: apt-get install uidmap, and a line for the user in /etc/subuid and /etc/subgid",
		}
	}
	if uids, gids, err = subordinate(uid); err != nil {
		return nil, nil, nil, err
	}
	m, err = mappers()
	return uids, gids, m, err
}

// OneID returns why the user namespace that this process is in has a single
// id, and the way to more; nil when it has more, or is the machine's first.
func OneID() *UserNSError {
	b, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return nil
	}
	f := strings.Fields(string(b))
	if len(f) != 3 || f[2] != "1" {
		return nil
	}
	uid, err := strconv.Atoi(f[1])
	if err != nil {
		return nil
	}
	_, _, _, err = subordinateIDs(uid)
	var why *UserNSError
	if errors.As(err, &why) {
		return why
	}
	return &UserNSError{
		Msg: "newuidmap or newgidmap may not map the subordinate ids of this user",
		Way: "they must be set-uid root or have the capability for it: reinstall the package uidmap; in a container, its options may forbid it",
	}
}

// mapError is a newuidmap or newgidmap that was there and did not do it.
type mapError struct{ error }

// idRange is a run of subordinate ids.
type idRange struct{ start, count int64 }

// subordinate returns the ranges of the user uid.
func subordinate(uid int) (uids, gids []idRange, err error) {
	name := strconv.Itoa(uid)
	if u, err := user.LookupId(name); err == nil && u.Username != "" {
		name = u.Username
	}
	for _, f := range []struct {
		file string
		to   *[]idRange
	}{{"/etc/subuid", &uids}, {"/etc/subgid", &gids}} {
		b, err := os.ReadFile(f.file)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, nil, err
		}
		*f.to = rangesOf(string(b), name, strconv.Itoa(uid))
		if len(*f.to) == 0 {
			return nil, nil, &UserNSError{
				Msg: fmt.Sprintf("%s: no range of ids for user %s", f.file, name),
				Way: fmt.Sprintf("as root: apt-get install uidmap, and a line %s:100000:65536 in /etc/subuid and in /etc/subgid "+
					"(usermod --add-subuids 100000-165535 --add-subgids 100000-165535 %s writes both)", name, name),
			}
		}
	}
	return uids, gids, nil
}

// rangesOf reads a file as subuid(5) describes it, and returns the ranges of a
// user, who may be in it by name or by number. Lines that are no ranges are
// passed over, as newuidmap does.
func rangesOf(file, name, uid string) []idRange {
	var list []idRange
	for line := range strings.Lines(file) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 3 || f[0] != name && f[0] != uid {
			continue
		}
		start, err1 := strconv.ParseUint(f[1], 10, 32)
		count, err2 := strconv.ParseUint(f[2], 10, 32)
		if err1 == nil && err2 == nil && count > 0 {
			list = append(list, idRange{int64(start), int64(count)})
		}
	}
	return list
}

// idMappers are the paths of the set-id programs that may write id maps.
type idMappers map[string]string

func mappers() (idMappers, error) {
	m := idMappers{}
	for _, name := range []string{"newuidmap", "newgidmap"} {
		path, err := exec.LookPath(name)
		if err != nil {
			return nil, &UserNSError{
				Msg: name + ": not found; without it an unprivileged user has a single id, and images need more",
				Way: "as root: apt-get install uidmap (Fedora: shadow-utils, Alpine: shadow-uidmap); the user's ids are those of /etc/subuid and /etc/subgid",
			}
		}
		m[name] = path
	}
	return m, nil
}

// run maps id to 0 and the ranges to 1 and up, for the process pid.
func (m idMappers) run(name string, pid, id int, ranges []idRange) error {
	args := []string{strconv.Itoa(pid), "0", strconv.Itoa(id), "1"}
	next := int64(1)
	for _, r := range ranges {
		args = append(args, strconv.FormatInt(next, 10), strconv.FormatInt(r.start, 10), strconv.FormatInt(r.count, 10))
		next += r.count
	}
	out, err := exec.Command(m[name], args...).CombinedOutput()
	if err == nil {
		return nil
	}
	return &mapError{fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))}
}
