package copying

import "github.com/whittle-build/whittle/internal/entry"

// Workdir returns what a WORKDIR writes: the missing directories of dir, made
// with mode 0755 for the user, and the existing ones above them. Links are
// followed inside to. There are none when dir exists.
func Workdir(to entry.FS, dir string, uid, gid uint32, now entry.Time) (*Items, error) {
	root, err := to.Lstat(".")
	if err != nil {
		return nil, err
	}
	l := newLayout(to, root, now)
	at, err := entry.Resolve(to, entry.Clean(dir), true)
	if err != nil {
		return nil, err
	}
	made := entry.Entry{Kind: entry.Dir, Mode: 0o755, UID: uid, GID: gid, Mtime: now}
	if _, err := l.mkdirAll(at, made); err != nil {
		return nil, err
	}
	return Listed(l.items()), nil
}
