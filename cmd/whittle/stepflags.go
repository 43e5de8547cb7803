package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/whittle-build/whittle"
	"github.com/whittle-build/whittle/internal/container"
	"github.com/whittle-build/whittle/internal/nearest"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/sandbox"
)

// stepFlags are the flags of build that are about RUN steps.
type stepFlags struct {
	secrets, ssh, allow, ulimits []string
	shm, cgroup                  string
	memory, swap, cpus           string
	resources                    sandbox.Resources
}

func (f *stepFlags) add(fl *pflag.FlagSet) {
	fl.StringArrayVar(&f.secrets, "secret", nil, "let steps that ask for it see a secret: `id=ID,src=FILE` or id=ID,env=NAME; may be repeated")
	fl.StringArrayVar(&f.ssh, "ssh", nil, "let steps that ask for it sign with an agent or keys: `ID[=SOCKET|KEY[,KEY]]`, or default for $SSH_AUTH_SOCK and else the keys in ~/.ssh; may be repeated")
	fl.StringSliceVar(&f.allow, "allow", nil, "allow steps `RIGHT`: network.host, security.insecure or device; may be repeated")
	fl.StringArrayVar(&f.ulimits, "ulimit", nil, "limit of steps, `NAME=SOFT[:HARD]`; may be repeated")
	fl.StringVar(&f.shm, "shm-size", "", "`SIZE` of /dev/shm of steps (default 64m)")
	fl.StringVar(&f.cgroup, "cgroup-parent", "", "run steps in control groups below `GROUP`")
	fl.StringVarP(&f.memory, "memory", "m", "", "memory of each step, a `SIZE` such as 512m")
	fl.StringVar(&f.swap, "memory-swap", "", "memory and swap of each step, together a `SIZE` such as 1g; -1 is no limit of swap")
	r := &f.resources
	fl.Uint64VarP(&r.CPUShares, "cpu-shares", "c", 0, "`WEIGHT` of each step's processor time; 1024 is the usual one")
	fl.Uint64Var(&r.CPUPeriod, "cpu-period", 0, "period of --cpu-quota in `MICROSECONDS` (default 100000)")
	fl.Int64Var(&r.CPUQuota, "cpu-quota", 0, "processor time of each step in a period, in `MICROSECONDS`")
	fl.StringVar(&f.cpus, "cpus", "", "processor time of each step, a `NUMBER` of processors such as 1.5")
	fl.Int64Var(&r.Pids, "pids-limit", 0, "`NUMBER` of processes and threads of each step; -1 is no limit")
	fl.StringVar(&r.CPUs, "cpuset-cpus", "", "processors of steps, as `0-2,4`")
	fl.StringVar(&r.Mems, "cpuset-mems", "", "memory nodes of steps, as `0,1`")
}

// stepOptions makes what the flags say of steps, and the secrets.
func (p *program) stepOptions(f *stepFlags, r *whittle.Request) (err error) {
	if r.Secrets, err = p.parseSecrets(f.secrets); err != nil {
		return err
	}
	if r.SSH, err = p.parseSSH(f.ssh); err != nil {
		return err
	}
	if r.Ulimits, err = parseUlimits(f.ulimits); err != nil {
		return err
	}
	if r.ShmSize, err = parseSize("--shm-size", f.shm, container.KiloMemory); err != nil {
		return err
	}
	for _, a := range f.allow {
		right, _, _ := strings.Cut(a, "=")
		if right != "device" && !slices.Contains(whittle.Entitlements(), a) {
			return &usageError{fmt.Errorf("--allow %q: unknown right", a), "there are " + strings.Join(whittle.Entitlements(), ", ") + " and device"}
		}
	}
	r.Allow = f.allow
	r.CgroupParent, r.Resources = f.cgroup, f.resources
	if r.Resources.Memory, err = parseSize("--memory", f.memory, container.KiloMemory); err != nil {
		return err
	}
	if f.swap == "-1" {
		r.Resources.MemorySwap = -1
	} else if r.Resources.MemorySwap, err = parseSize("--memory-swap", f.swap, container.KiloMemory); err != nil {
		return err
	}
	if err := wholeCPUs(f.cpus, &r.Resources); err != nil {
		return err
	}
	return checkLimits(&r.Resources)
}

// ownKeys are the private keys that ssh(1) itself would use, as far as they are
// there.
func ownKeys(home string) []string {
	var out []string
	for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
		path := filepath.Join(home, ".ssh", name)
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() && filepath.IsAbs(home) {
			out = append(out, path)
		}
	}
	return out
}

// parseSSH reads docker's --ssh. default alone, or any other name alone, is the
// agent that $SSH_AUTH_SOCK leads to or, where none runs, the user's own keys.
func (p *program) parseSSH(list []string) ([]whittle.SSH, error) {
	var out []whittle.SSH
	for _, text := range list {
		id, paths, given := strings.Cut(text, "=")
		s := whittle.SSH{ID: cmp.Or(id, "default")}
		bad := func(msg, way string) ([]whittle.SSH, error) {
			return nil, &usageError{fmt.Errorf("--ssh %q: %s", text, msg), way}
		}
		if slices.ContainsFunc(out, func(o whittle.SSH) bool { return o.ID == s.ID }) {
			return bad("this id was given already", "give each agent an id of its own: --ssh "+s.ID+" --ssh other=SOCKET")
		}
		if given && paths != "" {
			s.Paths = strings.Split(paths, ",")
		} else if sock := p.getenv("SSH_AUTH_SOCK"); sock != "" {
			s.Paths = []string{sock}
		} else if s.Paths = ownKeys(p.getenv("HOME")); len(s.Paths) == 0 {
			return bad("there is no agent: SSH_AUTH_SOCK is not set, and no key in ~/.ssh", "start one, eval $(ssh-agent) && ssh-add, or name key files: --ssh "+s.ID+"=KEYFILE")
		}
		out = append(out, s)
	}
	return out, nil
}

// parseUlimits reads docker's --ulimit. Of one name the last one counts.
func parseUlimits(list []string) ([]plan.Ulimit, error) {
	var out []plan.Ulimit
	for _, text := range list {
		u, msg := parseUlimit(text)
		if msg != "" {
			return nil, &usageError{fmt.Errorf("--ulimit %q: %s", text, msg), ulimitHint(u.Name)}
		}
		out = slices.DeleteFunc(out, func(o plan.Ulimit) bool { return o.Name == u.Name })
		out = append(out, u)
	}
	sort.Slice(out, func(i, k int) bool { return out[i].Name < out[k].Name })
	return out, nil
}

func parseUlimit(text string) (u plan.Ulimit, mistake string) {
	name, value, ok := strings.Cut(text, "=")
	u.Name = name
	if !ok {
		return u, "want NAME=SOFT[:HARD]"
	}
	if !slices.Contains(whittle.UlimitNames(), name) {
		return u, "invalid ulimit type: " + name
	}
	soft, hard, both := strings.Cut(value, ":")
	if !both {
		hard = soft
	}
	var err1, err2 error
	u.Soft, err1 = strconv.ParseInt(soft, 10, 64)
	u.Hard, err2 = strconv.ParseInt(hard, 10, 64)
	switch {
	case err1 != nil || err2 != nil || u.Soft < -1 || u.Hard < -1:
		return u, "want whole numbers, or -1 for no limit"
	case u.Hard != -1 && (u.Soft > u.Hard || u.Soft == -1):
		return u, fmt.Sprintf("ulimit soft limit must be less than or equal to hard limit: %d > %d", u.Soft, u.Hard)
	}
	return u, ""
}

func ulimitHint(name string) string {
	for _, known := range whittle.UlimitNames() {
		if name != known && nearest.Distance(name, known) < 3 {
			return "did you mean " + known + "?"
		}
	}
	return "for example --ulimit nofile=1024:4096; the names are " + strings.Join(whittle.UlimitNames(), ", ")
}
