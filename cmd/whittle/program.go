package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle"
	"github.com/whittle-build/whittle/internal/nearest"
	"github.com/whittle-build/whittle/internal/sandbox"
	"github.com/whittle-build/whittle/internal/settings"
)

// The exit codes. An interruption has that of its signal; a container's own
// code is passed on by run and exec.
const (
	exitFailed = 1
	exitUsage  = 2
)

// program is one call of whittle: its streams, its environment and the flags
// that all commands have.
type program struct {
	name    string // whittle, or docker when called through a link of that name
	docker  bool
	version string
	stdin   *os.File
	stdout  *os.File
	stderr  *os.File
	getenv  func(string) string
	environ func() []string

	root           string // --root
	isolation      string // --isolation
	config         string // docker's --config
	registryConfig string

	// refused is why there is no user namespace, when one is needed.
	refused *sandbox.UserNSError

	signals signals
}

// usageError is a call that cannot be understood: exit code 2.
type usageError struct {
	err  error
	hint string
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Hint() string  { return e.hint }
func (e *usageError) Unwrap() error { return e.err }

// countError is a call with too many or too few operands.
type countError struct {
	verb, want string
	got        int
}

func (e *countError) Error() string {
	return fmt.Sprintf("%s wants %s, and got %d", e.verb, e.want, e.got)
}

// codeError ends the program with a code and says no more than was said.
type codeError int

func (e codeError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// run executes the command line args and returns the exit code.
func (p *program) run(ctx context.Context, args []string) int {
	root := p.command()
	root.SetArgs(args)
	root.SetIn(p.stdin)
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	c, err := root.ExecuteContextC(ctx)
	var code codeError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	}
	if code, ok := interruptCode(ctx); ok {
		fmt.Fprintf(p.stderr, "%s: %v\n", p.name, errInterrupted)
		return code
	}
	p.report(p.stderr, err)
	var usage *usageError
	if errors.As(err, &usage) {
		return p.usageCode(c, usage)
	}
	return exitFailed
}

// usageCode is the exit code of a wrong call of c. Scripts that call docker run
// tell its mistakes by 125 from what the container says.
func (p *program) usageCode(c *cobra.Command, err *usageError) int {
	if !p.docker || !slices.Contains([]string{"run", "create", "exec"}, c.Name()) {
		return exitUsage
	}
	var count *countError
	if err == errNoTerminal || errors.As(err, &count) {
		return exitFailed
	}
	return exitEngine
}

// command is the tree of all commands.
func (p *program) command() *cobra.Command {
	var version bool
	root := &cobra.Command{
		Use:           p.name,
		Short:         "Build container images from multi-stage Dockerfiles: compile in a fat image, ship what is left",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case version:
				return p.printVersion()
			case len(args) == 0:
				return c.Help()
			}
			return p.unknown(c, args[0])
		},
	}
	// Not cobra's own flag: it would link text/template, 2 MB.
	root.Flags().BoolVarP(&version, "version", "v", false, "print the version")
	root.PersistentFlags().StringVar(&p.registryConfig, "registry-config", "", "`FILE` that says how registries are reached (default $WHITTLE_REGISTRY_CONFIG, else ~/.config/whittle/whittle.toml or /etc/whittle/whittle.toml)")
	root.PersistentFlags().StringVar(&p.root, "root", "", "`DIR` of the store (default $WHITTLE_ROOT, else /var/lib/whittle for root and ~/.local/share/whittle for others)")
	if p.docker {
		root.PersistentFlags().StringVar(&p.config, "config", "", "`DIR` of the config.json with credentials for registries (default $DOCKER_CONFIG, else ~/.docker)")
	}
	root.SetFlagErrorFunc(flagError)
	root.CompletionOptions.HiddenDefaultCmd = true
	p.addCommands(root)
	p.addAliases(root)
	root.SetHelpCommand(p.helpCommand())
	return root
}

// helpCommand is cobra's, but an unknown command is a mistake.
func (p *program) helpCommand() *cobra.Command {
	return &cobra.Command{
		Use: "help [COMMAND]", Short: "Show the help of a command",
		RunE: func(c *cobra.Command, a []string) error {
			about, rest, err := c.Root().Find(a)
			if err == nil && len(rest) == 0 {
				return about.Help()
			}
			return p.unknown(about, rest[0])
		},
	}
}

func (p *program) unknown(c *cobra.Command, name string) error {
	hint := fmt.Sprintf("%s --help lists the commands", c.CommandPath())
	c.SuggestionsMinimumDistance = 2
	if s := c.SuggestionsFor(name); len(s) > 0 {
		hint = "did you mean " + strings.Join(s, " or ") + "?"
	}
	return &usageError{fmt.Errorf("there is no command %q", strings.TrimSpace(verb(c)+" "+name)), hint}
}

// flagError makes a mistake in the flags a usage error that offers the flag
// which was probably meant.
func flagError(c *cobra.Command, err error) error {
	hint := fmt.Sprintf("%s --help lists the flags", c.CommandPath())
	var unknown *pflag.NotExistError
	var bad *pflag.InvalidValueError
	switch {
	case errors.As(err, &unknown):
		name := unknown.GetSpecifiedName()
		if near := nearFlag(c, name); near != "" {
			hint = fmt.Sprintf("did you mean --%s?", near)
		}
		hint = cmp.Or(daemonFlags(name), hint)
	case errors.As(err, &bad):
		err = fmt.Errorf("--%s %q: want %s", bad.GetFlag().Name, bad.GetValue(), kindOf(bad.GetFlag()))
	}
	if v := verb(c); v != "" {
		err = fmt.Errorf("%s: %w", v, err)
	}
	return &usageError{err, hint}
}

// daemonFlags says what to do instead of docker's flags that are about its
// daemon.
func daemonFlags(name string) string {
	switch name {
	case "H", "host", "context", "tls", "tlscacert", "tlscert", "tlskey", "tlsverify":
		return "there is no daemon to choose: leave the flag out; --root chooses the store"
	case "D", "debug", "log-level":
		return "there is no daemon whose log it could be about: leave the flag out; build --progress plain shows everything"
	}
	return ""
}

// kindOf says in words what a flag takes.
func kindOf(f *pflag.Flag) string {
	switch f.Value.Type() {
	case "bool":
		return "true or false"
	case "int", "int64":
		return "a whole number"
	case "uint64":
		return "a whole number from 0"
	case "duration":
		return "a time such as 90s or 72h"
	}
	return "a " + f.Value.Type()
}

// verb is a command's name without the program's: build, image ls.
func verb(c *cobra.Command) string {
	return strings.TrimPrefix(strings.TrimPrefix(c.CommandPath(), c.Root().Name()), " ")
}

func nearFlag(c *cobra.Command, name string) string {
	best, dist := "", 3
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if d := nearest.Distance(f.Name, name); d < dist && !f.Hidden {
			best, dist = f.Name, d
		}
	})
	return best
}

// report writes err for a person: what, where, and the way out.
func (p *program) report(w io.Writer, err error) {
	whittle.WriteError(w, p.name, err)
}

// args checks how many operands a command has.
func args(least, most int, what string) cobra.PositionalArgs {
	return func(c *cobra.Command, a []string) error {
		if len(a) >= least && (most < 0 || len(a) <= most) {
			return nil
		}
		return &usageError{
			&countError{verb(c), what, len(a)},
			cmp.Or(apart(c, a), "usage: "+c.UseLine()),
		}
	}
}

// apart tells who gave a value to a flag that needs none, such as --sbom, as a word of
// its own that it belongs to the flag by an equals sign only.
func apart(c *cobra.Command, operands []string) (hint string) {
	for _, word := range []string{"true", "false"} {
		if !slices.Contains(operands, word) {
			continue
		}
		var ways []string
		c.Flags().Visit(func(f *pflag.Flag) {
			if f.NoOptDefVal != "" {
				ways = append(ways, "--"+f.Name+"="+word)
			}
		})
		if len(ways) > 0 {
			return fmt.Sprintf("if %q is the value of a flag, write %s", word, strings.Join(ways, " or "))
		}
	}
	return ""
}

// open opens the store.
func (p *program) open() (*whittle.Whittle, error) {
	dir, err := whittle.Root(p.root, p.getenv)
	if err != nil {
		return nil, err
	}
	hosts, err := p.registries()
	if err != nil {
		return nil, err
	}
	o := whittle.Options{
		Root:        dir,
		Rootfs:      p.getenv("WHITTLE_ROOTFS"),
		Isolation:   cmp.Or(p.isolation, p.getenv("WHITTLE_ISOLATION")),
		UserNS:      sandbox.InUserNS(),
		Credentials: whittle.CredentialFiles(p.credentialEnv),
		Registries:  hosts,
		CertDirs:    settings.CertDirs(p.getenv),
		Getenv:      p.getenv,
	}
	if p.refused != nil { // a nil *UserNSError would be an error
		o.Refused = p.refused
	}
	if o.UserNS {
		ids, err := os.ReadFile("/proc/self/uid_map")
		if err != nil {
			return nil, err
		}
		o.IDMap = strings.Join(strings.Fields(string(ids)), " ")
	}
	return whittle.Open(o)
}

// addIsolation adds the flag that says how steps are kept apart from the
// machine.
func (p *program) addIsolation(fl *pflag.FlagSet) {
	fl.StringVar(&p.isolation, "isolation", "", "run steps in `WAY`: "+isolations+" (default $WHITTLE_ISOLATION, else native)")
}

// isolations are the values of --isolation.
const isolations = "native, chroot, or oci=RUNTIME for a program such as runc"

// checkIsolation refuses a way that there is not.
func (p *program) checkIsolation() error {
	if _, err := sandbox.ParseIsolation(p.isolation); err != nil {
		return &usageError{fmt.Errorf("--%w", err), sandbox.IsolationHint}
	}
	return nil
}

// credentialEnv is the environment, with the folder that --config names.
func (p *program) credentialEnv(key string) string {
	if key == "DOCKER_CONFIG" && p.config != "" {
		return p.config
	}
	return p.getenv(key)
}

// withStore runs fn with the store open. Who may not mount gets there through
// a user namespace: this same command line is run again in one, and its exit
// code is ours. Where none can be made, fn is run without the right to mount.
func (p *program) withStore(fn func(*whittle.Whittle) error) (err error) {
	if sandbox.NeedsUserNS() && !p.chroots() {
		code, err := p.again()
		if !errors.As(err, &p.refused) {
			return cmp.Or(err, codeOrNil(code))
		}
	}
	w, err := p.open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Exit()) }()
	return fn(w)
}

// chroots says whether root wants steps to run in a chroot, and so no user
// namespace.
func (p *program) chroots() bool {
	return os.Geteuid() == 0 && (cmp.Or(p.isolation, p.getenv("WHITTLE_ISOLATION")) == sandbox.Chroot || p.getenv("WHITTLE_ROOTFS") == sandbox.Chroot)
}

// again runs this command line in a user namespace.
func (p *program) again() (code int, err error) {
	// In there we are root, who has another store by default.
	dir, err := whittle.Root(p.root, p.getenv)
	if err != nil {
		return 0, err
	}
	if err := os.Setenv("WHITTLE_ROOT", dir); err != nil {
		return 0, err
	}
	p.signals.passOn.Store(true)
	defer p.signals.passOn.Store(false)
	signals, stop, err := p.signals.take(unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH, unix.SIGALRM)
	if err != nil {
		return 0, err
	}
	defer stop()
	return sandbox.ReexecInUserNS(signals)
}

func codeOrNil(code int) error {
	if code == 0 {
		return nil
	}
	return codeError(code)
}
