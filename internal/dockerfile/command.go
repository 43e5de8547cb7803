package dockerfile

import "github.com/whittle-build/whittle/internal/config"

// Command is what an instruction says: one of *Arg, *Env, *Label, *Run, *Cmd,
// *Entrypoint, *Copy, *Workdir, *User, *Expose, *Volume, *Shell, *StopSignal,
// *Healthcheck, *Onbuild and *Maintainer.
type Command interface{ command() }

// Pair is one NAME=value of ENV or LABEL.
type Pair struct {
	Key, Value string
	Legacy     bool // "ENV name value"
}

// ArgItem is one NAME or NAME=default of ARG.
type ArgItem struct {
	Key     string
	Default *string // nil: none was given
	Doc     string  // what a comment above it says of the argument
}

// Heredoc is a file written in the Dockerfile itself.
type Heredoc struct {
	Name    string
	Content string
	Expand  bool // the delimiter was not quoted
}

// Words is a command line in one of its two forms.
type Words struct {
	Args  []string
	Shell bool // shell form: Args is at most one text for the shell
}

// Arg is ARG.
type Arg struct{ Items []ArgItem }

// Env is ENV.
type Env struct{ Pairs []Pair }

// Label is LABEL.
type Label struct{ Pairs []Pair }

// Run is RUN. Network is "default", "none" or "host", and Insecure is
// --security=insecure. For its mounts see Mounts.
type Run struct {
	Words
	Network  string
	Insecure bool
	Devices  []Device
	mounts   mounts
	// Script is the body of a RUN that is one heredoc and nothing else; its
	// text is the command. Other heredocs are part of Args already.
	Script *Heredoc
}

// Cmd is CMD.
type Cmd struct{ Words }

// Entrypoint is ENTRYPOINT.
type Entrypoint struct{ Words }

// Copy is COPY, or ADD. Heredocs are sources that come after Sources.
type Copy struct {
	Add          bool
	Sources      []string
	Heredocs     []Heredoc
	Dest         string
	From         string // "" means the build context
	Chown, Chmod string
	Link         bool     // make the layer without looking at what is below it
	Parents      bool     // keep the paths of sources
	Excludes     []string // patterns of what to leave out of copied directories
	// Of ADD; nil is not said.
	Checksum   string // of the one file or commit that is fetched
	KeepGitDir *bool
	Unpack     *bool
}

// Workdir is WORKDIR.
type Workdir struct{ Path string }

// User is USER.
type User struct{ User string }

// Expose is EXPOSE; Ports are sorted as written.
type Expose struct{ Ports []string }

// Volume is VOLUME.
type Volume struct{ Paths []string }

// Shell is SHELL.
type Shell struct{ Shell []string }

// StopSignal is STOPSIGNAL.
type StopSignal struct{ Signal string }

// Healthcheck is HEALTHCHECK.
type Healthcheck struct{ Check config.Healthcheck }

// Onbuild is ONBUILD; Trigger is the instruction as text, bodies of heredocs
// included.
type Onbuild struct{ Trigger string }

// Maintainer is MAINTAINER.
type Maintainer struct{ Name string }

func (*Arg) command()         {}
func (*Env) command()         {}
func (*Label) command()       {}
func (*Run) command()         {}
func (*Cmd) command()         {}
func (*Entrypoint) command()  {}
func (*Copy) command()        {}
func (*Workdir) command()     {}
func (*User) command()        {}
func (*Expose) command()      {}
func (*Volume) command()      {}
func (*Shell) command()       {}
func (*StopSignal) command()  {}
func (*Healthcheck) command() {}
func (*Onbuild) command()     {}
func (*Maintainer) command()  {}
