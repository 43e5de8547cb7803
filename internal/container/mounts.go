package container

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/whittle-build/whittle/internal/sandbox"
)

// Mount is what a container sees at Target: a path of the host, or a new
// tmpfs when there is no Source.
type Mount struct {
	Source   string   `json:"source,omitempty"`
	Target   string   `json:"target"`
	ReadOnly bool     `json:"readOnly,omitempty"`
	Own      bool     `json:"own,omitempty"`     // Source is a folder in the container's own, see volumes.go
	Make     bool     `json:"make,omitempty"`    // make Source, a folder, when it is not there
	Options  []string `json:"options,omitempty"` // of a tmpfs
}

// homeWay is the way out for a ~ that arrived here: in quotes, or after a =.
const homeWay = `write "$HOME" for it; for a folder that is called so, ./~`

// ParseVolume reads docker's -v: HOST:CONTAINER[:OPTIONS], or CONTAINER alone
// for a folder of the container's own. A HOST that is not there is made when
// the container starts, as docker does it.
func ParseVolume(s string) (Mount, error) {
	bad := func(msg, way string) (Mount, error) {
		return Mount{}, &Error{Msg: fmt.Sprintf("-v %q: %s", s, msg), Way: way}
	}
	parts := strings.Split(s, ":")
	switch {
	case len(parts) == 1 && path.IsAbs(s):
		return Mount{Target: path.Clean(s), Own: true}, nil
	case len(parts) == 1:
		return bad("want HOST:CONTAINER[:ro]", fmt.Sprintf("for example -v ./out:/out; -v %s alone is a folder of the container's own", path.Clean("/"+s)))
	case len(parts) > 3 || parts[0] == "" || parts[1] == "":
		return bad("want HOST:CONTAINER[:ro]", "for example -v ./out:/out")
	case strings.HasPrefix(parts[0], "~"):
		return bad("the shell did not replace ~ by the home directory", homeWay)
	case !strings.Contains(parts[0], "/") && parts[0] != "." && parts[0] != "..":
		return bad("there are no named volumes", fmt.Sprintf("for the folder %s of this directory write -v ./%s:%s", parts[0], parts[0], parts[1]))
	case !path.IsAbs(parts[1]):
		return bad(fmt.Sprintf("the path in the container, %s, does not begin with /", parts[1]), "for example -v ./out:/out")
	}
	source, err := filepath.Abs(parts[0])
	if err != nil {
		return Mount{}, err
	}
	m := Mount{Source: source, Target: path.Clean(parts[1]), Make: true}
	if len(parts) < 3 {
		return m, nil
	}
	for o := range strings.SplitSeq(parts[2], ",") {
		switch o {
		case "ro", "readonly":
			m.ReadOnly = true
		case "rw", "z", "Z", "cached", "delegated", "consistent", "rprivate", "private":
			// What is so anyway. Labels (z) are for engines that confine by them.
		default:
			return bad(fmt.Sprintf("option %q is unknown", o), "there are ro and rw")
		}
	}
	return m, nil
}

// ParseMount reads docker's --mount: type=bind,source=…,target=…[,readonly] or
// type=tmpfs,target=…[,tmpfs-size=…][,tmpfs-mode=…].
func ParseMount(s string) (Mount, error) {
	bad := func(msg, way string) (Mount, error) {
		return Mount{}, &Error{Msg: fmt.Sprintf("--mount %q: %s", s, msg), Way: way}
	}
	fields, err := csv.NewReader(strings.NewReader(s)).Read()
	if err != nil {
		return bad("want KEY=VALUE,KEY=VALUE…", "for example --mount type=bind,source=/src,target=/app,readonly")
	}
	var m Mount
	kind := "volume"
	for _, f := range fields {
		k, v, _ := strings.Cut(f, "=")
		switch strings.ToLower(k) {
		case "type":
			kind = v
		case "source", "src":
			m.Source = v
		case "target", "destination", "dst":
			m.Target = v
		case "readonly", "ro":
			m.ReadOnly = v != "false" && v != "0"
		case "consistency":
			// Of other systems' file sharing.
		case "tmpfs-size":
			size, err := ParseSize(v, KiloMemory)
			if err != nil {
				return bad(fmt.Sprintf("tmpfs-size=%s: %v", v, err), "for example tmpfs-size=64m")
			}
			m.Options = append(m.Options, fmt.Sprintf("size=%d", size))
		case "tmpfs-mode":
			m.Options = append(m.Options, "mode="+v)
		default:
			return bad(fmt.Sprintf("key %q is unknown", k), "there are type, source, target, readonly, tmpfs-size and tmpfs-mode")
		}
	}
	if !path.IsAbs(m.Target) {
		return bad("target must be a path that begins with /", "for example --mount type=bind,source=/src,target=/app")
	}
	m.Target = path.Clean(m.Target)
	if msg, way := m.wrongAs(kind); msg != "" {
		return bad(msg, way)
	}
	m.Own = kind == "volume"
	if kind == "bind" {
		m.Source, err = filepath.Abs(m.Source)
	}
	return m, err
}

// wrongAs is what is wrong with m as a mount of this type, and the way out.
func (m *Mount) wrongAs(kind string) (msg, way string) {
	switch {
	case kind == "tmpfs" && m.Source != "":
		return "a tmpfs has no source", "leave source out, or say type=bind"
	case kind == "tmpfs":
		return "", ""
	case kind != "bind" && kind != "volume":
		return fmt.Sprintf("there are no mounts of type %s", kind), "there are type=bind, type=tmpfs and type=volume"
	case kind == "volume" && m.Source != "":
		return "there are no named volumes", "say type=bind with a folder of the host; without a source it is a folder of the container's own"
	case kind == "bind" && m.Source == "":
		return "source is missing", "for example --mount type=bind,source=/src,target=/app"
	case strings.HasPrefix(m.Source, "~"):
		return "the shell did not replace ~ by the home directory", homeWay
	case m.Options != nil:
		return "tmpfs options are of type=tmpfs", "leave them out"
	}
	return "", ""
}

// ParseTmpfs reads docker's --tmpfs: TARGET[:OPTIONS].
func ParseTmpfs(s string) (Mount, error) {
	target, options, _ := strings.Cut(s, ":")
	m := Mount{Target: path.Clean(target)}
	if !path.IsAbs(target) {
		return m, &Error{Msg: fmt.Sprintf("--tmpfs %q: want a path that begins with /", s), Way: "for example --tmpfs /run:size=64m"}
	}
	for o := range strings.SplitSeq(options, ",") {
		k, v, _ := strings.Cut(o, "=")
		switch k {
		case "":
		case "ro":
			m.ReadOnly = true
		case "size":
			size, err := tmpfsSize(v)
			if err != nil {
				return m, &Error{Msg: fmt.Sprintf("--tmpfs %q: size=%s: %v", s, v, err), Way: "for example --tmpfs /run:size=64m"}
			}
			m.Options = append(m.Options, "size="+size)
		case "mode", "uid", "gid", "nr_inodes":
			m.Options = append(m.Options, o)
		case "rw", "nosuid", "nodev", "noexec", "exec", "suid", "dev":
			if k == "noexec" || k == "suid" || k == "dev" || k == "exec" {
				return m, &Error{Msg: fmt.Sprintf("--tmpfs %q: option %s cannot be chosen", s, k), Way: "a tmpfs is mounted nosuid,nodev; leave the option out"}
			}
		default:
			return m, &Error{Msg: fmt.Sprintf("--tmpfs %q: option %q is unknown", s, o), Way: "there are size, mode, uid, gid, nr_inodes and ro"}
		}
	}
	return m, nil
}

// tmpfsSize reads a size as the kernel takes it: in bytes, or in percent of the
// memory (tmpfs(5)).
func tmpfsSize(s string) (string, error) {
	if percent, ok := strings.CutSuffix(s, "%"); ok {
		if n, err := strconv.ParseUint(percent, 10, 7); err == nil && n <= 100 {
			return s, nil
		}
	}
	n, err := ParseSize(s, KiloMemory)
	return strconv.FormatInt(n, 10), err
}

// sandboxMounts makes what is to be mounted. Sources that are not there are
// made where docker makes them, and a mistake where it does not.
func sandboxMounts(list []Mount) ([]sandbox.Mount, error) {
	var out []sandbox.Mount
	for _, m := range list {
		_, err := os.Stat(m.Source)
		switch {
		case m.Source == "" || err == nil:
		case errors.Is(err, fs.ErrNotExist) && m.Make:
			if err := os.MkdirAll(m.Source, 0o755); err != nil {
				return nil, &Error{Msg: fmt.Sprintf("mount %s: %v", m.Target, err), Way: "the folder of the host is not there and could not be made", Err: err}
			}
		default:
			return nil, &Error{Msg: fmt.Sprintf("mount %s: %v", m.Target, err), Way: "source is a path of this machine, which must be there", Err: err}
		}
		out = append(out, sandbox.Mount{Target: m.Target, Path: m.Source, ReadOnly: m.ReadOnly, Options: m.Options})
	}
	return out, nil
}
