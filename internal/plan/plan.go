// Package plan turns a parsed Dockerfile into the graph of steps that its
// target needs: every word expanded, every stage that is not needed left out,
// the config of the image known to the last byte but for times and new layers.
//
// A plan is data: it can be printed, hashed and sent elsewhere. The package
// does no I/O: it is told the configs of base images, and asks for those that
// it lacks with a *Missing. All mistakes that can be known before anything
// runs are found here, all at once. It does not know what a layer is, nor look
// into the build context.
package plan

import (
	"github.com/whittle-build/whittle/internal/config"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/dockerfile"
)

// Ref is an image that the Dockerfile names, or a context in its place: the name
// as written, variables replaced, and the platform that is wanted of it.
type Ref struct {
	Name     string
	Platform Platform
}

// Base is an image that a Ref was resolved to.
type Base struct {
	Config *config.Image // never changed
	ID     digest.Digest // its identity: manifest digest or image ID
	Name   string        // full name for people; "" means the Ref's
	// Unknown says that the image could not be had: Config is made up, and what
	// rests on it is not told.
	Unknown bool
}

// Request says what to plan.
type Request struct {
	File   *dockerfile.File
	Target string // a stage's name; "" means the last one
	// AllStages plans every stage, not only what the target needs, to find what
	// is wrong with any.
	AllStages bool
	Args      map[string]string // build arguments
	Labels    []string          // NAME=value, applied last, without history
	// Hosts are "name:ip", for the hosts file of steps.
	Hosts   []string
	Network string // of steps that do not say: "default" (or ""), "host", "none"
	// Allow is what steps may have that shuts them off from the machine no
	// more: "network.host", "security.insecure".
	Allow  []string
	Limits Limits // of every RUN
	// Platform is what the result must be for. Zero means that nobody asked:
	// steps are planned for BuildPlatform, and the result says what its base
	// says.
	Platform      Platform
	BuildPlatform Platform // of this machine
	// Contexts are what is put in the place of stages and images, by ContextName
	// of the name, perhaps with "::" and a platform after it.
	Contexts map[string]NamedContext
	// Ignored reports whether the context's ignore file leaves out a source of
	// COPY or ADD, as far as that can be told without looking. nil: never.
	Ignored func(source string) bool
	// Images are the refs resolved so far. The first call may have none.
	Images map[Ref]*Base
}

// Plan is what to do for a target.
type Plan struct {
	Stages   []*Stage // those that the target needs, in file order
	Target   *Stage
	Lines    []*Line // the instructions of these stages, in file order
	Steps    []*Step // each after all that it needs
	Warnings []dockerfile.Warning
}

// Root is a file system: the one after Step, or that of Image, or the files of
// the named context Context, or with none of them the empty one.
type Root struct {
	Step    *Step
	Image   *Ref
	Context string // a key of Request.Contexts
}

// Stage is one stage of the plan.
type Stage struct {
	Index    int    // in the file
	Name     string // lower case; "" if unnamed
	Display  string // for people: its name, or "stage-" and its number
	Line     *Line  // its FROM
	Lines    []*Line
	Base     Root // what FROM names
	Root     Root // what the stage leaves
	Platform Platform
	// Config is the config after the last instruction, with history. DiffIDs
	// are the base image's only, and entries that the stage adds to the
	// history have no time and no layer yet.
	Config config.Image
	// ScanStage and ScanContext say that an ARG asks for an SBOM of the stage, and
	// of the build context where this stage is the target.
	ScanStage, ScanContext bool
}

// Line is one instruction as people see it.
type Line struct {
	Number  int // from 1, over all Lines of the plan
	Stage   *Stage
	Text    string // as written, continuation lines joined
	Pos     dockerfile.Pos
	Trigger bool   // an ONBUILD trigger of the base; Pos is the FROM
	Label   string // as the reference builder says it: "[build 2/5] RUN make"
	Step    *Step  // nil: the line changes the config only, or is a FROM
	// State is a digest over all that the config says after this line, build
	// arguments in scope included.
	State digest.Digest
	// History is the index of the line's entry in Stage.Config.History; -1
	// for FROM and ONBUILD, which have none.
	History int
}

// Step is one instruction that changes the file system, with all that it
// reads. Exactly one of Run, Copy and Workdir is set.
type Step struct {
	ID      int // index in Plan.Steps
	Stage   *Stage
	Line    *Line
	Below   Root
	Deps    []*Step // the steps of Below, Copy.From and Run.Mounts, each once
	Run     *Run
	Copy    *Copy
	Workdir *Workdir
}

// Script is a heredoc that is a program: it is put at Path, mode 0755, outside
// of the layer, while the step runs.
type Script struct {
	Path    string
	Content string
}

// Run is a command.
type Run struct {
	Args []string
	Env  []string
	// Public is how many variables the image has at this step. They are the
	// first ones of the stage's config, where a name keeps its place; all
	// others in Env are build arguments.
	Public int
	// HiddenEnv is set after Env and wins over it, but is no part of the key:
	// proxies.
	HiddenEnv []string
	Dir       string
	User      string
	Network   string   // "default", "host" or "none"
	Hosts     []string // "name:ip"
	Script    *Script
	Platform  Platform
	Mounts    []Mount
	Insecure  bool // all rights that the builder has
	Hostname  string
	Limits    Limits
}

// DefaultHostname is the host name of a step.
const DefaultHostname = "buildkitsandbox"

// Limits are those of a step's processes that can change what it makes.
type Limits struct {
	Ulimits      []Ulimit
	ShmSize      int64 // of /dev/shm in bytes; 0 is the default
	CgroupParent string
}

// Ulimit is one limit of setrlimit(2): a name without its RLIMIT_, in lower
// case; -1 is no limit.
type Ulimit struct {
	Name       string
	Soft, Hard int64
}

// Heredoc is a file written in the Dockerfile, mode 0644.
type Heredoc struct{ Name, Content string }

// Copy is COPY or ADD. Sources come first, then Heredocs.
type Copy struct {
	Unpack bool // local archives
	// Sources are absolute clean paths or patterns within From; "/" is all
	// of it.
	// With Parents a source is a directory, /./ and a path or pattern below
	// it, which is kept below Dest.
	Sources  []string
	Parents  bool
	Excludes []string // patterns of what to leave out of copied directories
	// Link is set for a layer that is made on top of nothing: neither does it
	// follow links of the file system below, nor does its key speak of that.
	Link         bool
	Remotes      []Remote // between them
	UnpackRemote bool     // archives that were downloaded
	Heredocs     []Heredoc
	Dest         string // absolute; "/" at its end means that it is a folder
	Chown        string // "user", "user:group", names or numbers; ""
	Chmod        string // octal or symbolic; ""
	From         *Root  // nil: the build context
	FromText     string // --from as written
	// FromStage is the stage that From belongs to, if any, and Dir its last
	// WORKDIR: where people look for files that are not at the root.
	FromStage *Stage
	Dir       string
}

// Workdir makes a folder, owned by User if it is new.
type Workdir struct{ Path, User string }
