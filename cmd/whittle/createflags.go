package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/whittle-build/whittle"
	"github.com/whittle-build/whittle/internal/container"
)

// createFlags are the flags that run and create share.
type createFlags struct {
	req        whittle.RunRequest
	entrypoint string
	envFiles   []string
	shm        string
	restart    string
	stopWait   int
	cidFile    string
	attach     []string
	sigProxy   bool // of run, as docker
	quiet      bool
	detach     bool // of run only
}

func (f *createFlags) add(c *cobra.Command) {
	fl, r := c.Flags(), &f.req
	fl.SetInterspersed(false) // flags after the image are the command's
	fl.StringVar(&r.Name, "name", "", "name of the container")
	fl.StringArrayVarP(&r.Env, "env", "e", nil, "set a variable: `K=V`, or K to pass on")
	fl.StringArrayVar(&f.envFiles, "env-file", nil, "read variables from `FILE`")
	fl.StringArrayVarP(&r.Volumes, "volume", "v", nil, "mount `HOST:CONTAINER[:ro]`; CONTAINER alone is a folder of its own")
	fl.StringArrayVar(&r.Mounts, "mount", nil, "mount as `MOUNT` says: type=bind,source=HOST,target=CONTAINER[,readonly], or type=tmpfs,target=CONTAINER")
	fl.StringArrayVar(&r.Tmpfs, "tmpfs", nil, "mount a tmpfs at `PATH`[:size=64m]")
	fl.StringArrayVarP(&r.Ports, "publish", "p", nil, "lead `HOST:CONTAINER` into a network of the container's own (outgoing traffic needs --network host)")
	fl.BoolVarP(&r.PublishAll, "publish-all", "P", false, "lead a free port into each that the image exposes")
	fl.StringArrayVar(&r.Hosts, "add-host", nil, "add `HOST:IP` to /etc/hosts")
	fl.StringArrayVarP(&r.Labels, "label", "l", nil, "set a label: `K=V`")
	fl.StringVarP(&r.Dir, "workdir", "w", "", "working directory")
	fl.StringVarP(&r.User, "user", "u", "", "user, as USER in a Dockerfile")
	fl.StringVarP(&r.Hostname, "hostname", "h", "", "host name in the container")
	fl.StringVar(&f.entrypoint, "entrypoint", "", "run this instead of the image's ENTRYPOINT")
	fl.StringVar(&r.Network, "network", "", "host or none (default host; with -p one of its own)")
	fl.StringVar(&r.Network, "net", "", "the same as --network")
	_ = fl.MarkHidden("net") // it was just defined
	fl.StringVar(&r.Platform, "platform", "", "`OS/ARCH` of the image, such as linux/amd64")
	fl.StringVar(&r.Pull, "pull", "missing", "pull the image: missing, always or never")
	fl.BoolVarP(&f.quiet, "quiet", "q", false, "do not show the progress of a pull")
	fl.StringVar(&f.shm, "shm-size", "", "size of /dev/shm (64m)")
	fl.StringVar(&r.StopSignal, "stop-signal", "", "signal that asks it to end")
	fl.IntVar(&f.stopWait, "stop-timeout", 10, "seconds until it is killed after that; below 0 never")
	fl.BoolVar(&r.ReadOnly, "read-only", false, "its root file system cannot be written to")
	fl.StringVar(&f.cidFile, "cidfile", "", "write its ID to a new `FILE`")
	fl.StringVar(&f.restart, "restart", "no", "no is all there is: nothing watches containers")
	fl.BoolVarP(&r.Stdin, "interactive", "i", false, "keep standard input open")
	fl.BoolVarP(&r.TTY, "tty", "t", false, "give it a terminal")
	fl.BoolVar(&r.Remove, "rm", false, "remove the container when it has ended")
	fl.StringArrayVarP(&f.attach, "attach", "a", nil, "stay only with `STREAM`: stdin, stdout or stderr; may be repeated")
	fl.Bool("help", false, "help for "+c.Name()) // without a shorthand: -h is the host name
	c.SetFlagErrorFunc(createFlagError)
}

// ways are docker's flags that whittle lacks, and what to do without them.
var ways = [...]way{
	{"privileged cap-add device gpus device-cgroup-rule", "containers have docker's default rights and no more; run this one with another engine"},
	{"cap-drop security-opt group-add", "rights are docker's defaults and cannot be chosen; leave it out, or choose a user with -u"},
	{"userns", "ids are those of the host, and for a user who is not root those of /etc/subuid and /etc/subgid; leave it out"},
	{"memory m memory-swap memory-reservation cpus c cpu-shares cpuset-cpus cpu-quota cpu-period pids-limit ulimit blkio-weight oom-kill-disable oom-score-adj",
		"limits are those of the shell that calls: ulimit, or systemd-run --scope -p MemoryMax=…"},
	{"dns dns-search dns-option", "names are looked up as on the host; --add-host adds one"},
	{"link link-local-ip network-alias", "there is no network between containers: publish the other's port with -p, and --add-host NAME:host-gateway leads to it by name"},
	{"ip ip6 mac-address", "addresses are the host's and cannot be chosen; leave it out, and choose where a port is with -p IP:HOST:CONTAINER"},
	{"expose", "-p HOST:CONTAINER leads into a port; one that is only noted belongs into the image, with EXPOSE"},
	{"volumes-from volume-driver", "mount a folder of the host with -v in both containers"},
	{"init", "leave it out, or make tini the image's ENTRYPOINT"},
	{"pid ipc uts cgroupns runtime isolation", "namespaces are the container's own; leave it out"},
	{"log-driver log-opt", "logs prints what a container wrote"},
	{"sysctl storage-opt", "it cannot be set for one container; leave it out"},
	{"health-cmd no-healthcheck health-interval", "nothing asks containers for their health; leave it out"},
}

// A way is what to do without some of docker's flags.
type way struct{ names, way string }

// createFlagError says what to do without a flag of docker's.
func createFlagError(c *cobra.Command, err error) error { return lackedFlag(c, ways[:], err) }

func lackedFlag(c *cobra.Command, ways []way, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return flagError(c, err)
	}
	for _, w := range ways {
		for _, name := range strings.Fields(w.names) {
			if name == unknown.GetSpecifiedName() {
				return &usageError{fmt.Errorf("%s: %w", c.CommandPath(), err), w.way}
			}
		}
	}
	return flagError(c, err)
}

// request completes the flags with the operands.
func (p *program) request(c *cobra.Command, f *createFlags, a []string) (whittle.RunRequest, error) {
	r := f.req
	r.Image, r.Args = a[0], a[1:]
	if c.Flags().Changed("entrypoint") {
		r.Entrypoint = &f.entrypoint
	}
	if err := f.check(c); err != nil {
		return r, err
	}
	if c.Flags().Changed("stop-timeout") {
		r.StopWait = &f.stopWait
	}
	var err error
	if r.ShmSize, err = parseSize("--shm-size", f.shm, container.KiloMemory); err != nil {
		return r, err
	}
	if r.Env, err = p.variables(f.envFiles, r.Env); err != nil {
		return r, err
	}
	if r.TTY && r.Stdin && !f.detach && c.Name() == "run" && !isTerminal(p.stdin) {
		return r, errNoTerminal
	}
	return r, nil
}

// check refuses what cannot be had.
func (f *createFlags) check(c *cobra.Command) error {
	if f.restart != "no" && f.restart != "" {
		return &usageError{fmt.Errorf("--restart %s: nothing watches containers", f.restart), "leave it out, and let systemd or a loop start it again"}
	}
	if c.Flags().Changed("sig-proxy") && !f.sigProxy {
		return &usageError{errors.New("--sig-proxy=false: a container in the foreground gets all signals"), "leave it out, or run it with -d and read what it writes with logs -f"}
	}
	for i, s := range f.attach {
		f.attach[i] = strings.ToLower(s)
		if !slices.Contains([]string{"stdin", "stdout", "stderr"}, f.attach[i]) {
			return &usageError{fmt.Errorf("-a %s: there is no such stream", s), "there are stdin, stdout and stderr"}
		}
	}
	switch {
	case f.attach == nil:
		return nil
	case f.detach:
		return &usageError{errors.New("-a and -d exclude each other"), "leave one of them out"}
	case !slices.Contains(f.attach, "stdout") && !slices.Contains(f.attach, "stderr"):
		return &usageError{errors.New("-a stdin: nobody would see what it writes"), "add -a stdout and -a stderr, or run it with -d"}
	}
	return nil
}

// attached are the streams that a container in the foreground is given.
func (f *createFlags) attached(ct *container.Container) streams {
	has := func(name string) bool { return f.attach == nil || slices.Contains(f.attach, name) }
	return streams{in: ct.Spec.Stdin && has("stdin"), out: has("stdout"), err: has("stderr")}
}

var errNoTerminal = &usageError{errors.New("-it: standard input is not a terminal"), "leave -t out: -i alone passes standard input on"}

// variables joins variables of files with those of flags. One without a value
// has that of the environment; if it is not set there, the image's is left out.
func (p *program) variables(files, flags []string) ([]string, error) {
	var list []string
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, envFileError(name, err)
		}
		env, err := container.ParseEnvFile(name, string(b))
		if err != nil {
			return nil, err
		}
		list = append(list, env...)
	}
	list = append(list, flags...)
	for i, kv := range list {
		if strings.HasPrefix(kv, "=") || kv == "" {
			return nil, &usageError{fmt.Errorf("-e %q: has no name", kv), "write -e NAME=VALUE"}
		}
		if strings.Contains(kv, "=") {
			continue
		}
		if v, ok := lookup(p.environ(), kv); ok {
			list[i] = kv + "=" + v
		}
	}
	return list, nil
}

// envFileError names the flag and what it was given.
func envFileError(name string, err error) error {
	way := "it wants the path of a file that can be read, with one NAME=VALUE a line"
	var at *fs.PathError
	if errors.As(err, &at) {
		err = at.Err
	}
	return &container.Error{Msg: fmt.Sprintf("--env-file %s: %v", name, err), Way: way, Err: err}
}

// parseSize reads the size that a flag was given; none is 0.
func parseSize(flag, s string, kilo int64) (int64, error) {
	if s == "" {
		return 0, nil
	}
	n, err := container.ParseSize(s, kilo)
	if err != nil {
		return 0, &usageError{fmt.Errorf("%s %q: %w", flag, s, err), "for example 10GB or 512MiB"}
	}
	return n, nil
}
