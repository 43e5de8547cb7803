package whittle

import (
	"io"
	"runtime"

	"github.com/whittle-build/whittle/internal/execute"
	"github.com/whittle-build/whittle/internal/progress"
)

// Request says what to build. The zero value of every field but Context is a
// usable default.
type Request struct {
	// Context holds what COPY and ADD read: a folder, "-" for what In holds (an
	// archive, or a Dockerfile and no files), a git repository or an http(s) URL.
	Context  string
	Contexts map[string]string // named contexts, by the name that a Dockerfile calls them
	File     string            // Dockerfile; "" means that of the context, "-" what In holds
	In       io.Reader         // standard input
	// files, if not nil, are the main context, in the place of the folder: another build has
	// them open.
	files *execute.Context
	// Platform is what the image is for, "os/arch"; "" means this machine's, or
	// what its base is for. RUN needs a base whose programs run here, or an emulator. Several
	// stand with commas between them: then the image is one of several, under one name and
	// in one index.
	Platform string
	Target   string   // stage to build; "" means the last one
	Tags     []string // names that the image gets
	// Targets are several stages to build, in the place of Target, Tags and Outputs.
	Targets []Target
	Args    map[string]string // build arguments
	Labels  []string          // "k=v", added to the image last
	// Annotations are of the manifests that are written for the image, "k=v" or
	// "manifest[os/arch]:k=v".
	Annotations []string
	Hosts       []string // "host:ip" for the steps' /etc/hosts
	Network     string   // of RUN steps: "" or "default", "host", "none", "private"
	NoCache     bool     // run every step
	Explain     bool     // tell of each step that runs why it is not taken from a cache
	// NoCacheStages are the stages whose RUN, COPY and ADD run; names that no
	// stage has mean nothing.
	NoCacheStages []string
	Pull          bool // ask registries for newer base images
	Jobs          int  // steps run at once; 0 means no limit
	// WholeContext scans all of the context and not only what steps name, to
	// tell its size as Docker's classic builder does.
	WholeContext bool
	// SourceDateEpoch is the time of the image, of its history and of folders that
	// COPY, ADD and WORKDIR make: seconds, "context" or the name of a context. It
	// is the build argument SOURCE_DATE_EPOCH where that is not given; without
	// any it is the time at which the steps ran.
	SourceDateEpoch string
	// Timestamp is the same in the place of whatever else is said; of a context that is a
	// folder, "context" is the time of the git commit that is checked out there.
	Timestamp string
	Sink      progress.Sink // is told what happens; nil is told nothing
	// CacheFrom are shared caches that steps may come from, and CacheTo those that
	// learn what this build knows. A cache that cannot be read is told and passed
	// over; one that cannot be written fails the build after all else is done.
	CacheFrom, CacheTo []Cache
	// CacheSignKey is the PEM of a private key by which records that are exported are signed;
	// with it, or with CacheVerifyKey, a public one, records without a signature of that key do not count.
	CacheSignKey, CacheVerifyKey []byte
	Secrets                      []Secret // what RUN --mount=type=secret and downloads may use
	// Outputs are the forms in which the build leaves what it made; none means an
	// image in the store. Where the request has tags there is such an image in any
	// case. Push uploads it under each of its names: then layers that nothing
	// here needs stay where they are. Load gives it to the engine that is running.
	Outputs    []Output
	Push, Load bool
	Out        io.Writer // for outputs to "-"
	// Provenance says of an image that leaves the store how it was made, in MinProvenance or
	// MaxProvenance; "" says nothing. SignKey is the PEM of a key that signs what is pushed.
	Provenance string
	SBOM       bool // say also what is in it, as SPDX
	// SBOMGenerator is the image that finds that out; "" is whittle itself.
	SBOMGenerator string
	// SBOMParameters are for the generator: it finds NAME in its environment as
	// BUILDKIT_SCAN_NAME.
	SBOMParameters map[string]string
	SignKey        []byte
	Squash         bool // put what the target stage adds to its base into one layer
	// OnFailure is what to do with a RUN that fails while its root is there:
	// ShellOnFailure opens a shell in it, on the terminal that Lend lends, and
	// KeepOnFailure makes a container of it. "" throws it away.
	OnFailure string
	Lend      Lender
	Term      string // kind of that terminal, as in $TERM
	// AllowFailedOutput writes Outputs also when the last step of the target
	// fails, with what that left. The build fails all the same.
	AllowFailedOutput bool
	StepOptions
}

// DefaultJobs is how many steps the command line runs at once when it is not
// told: more than processors, as steps wait for networks and disks, and not so
// many that a wide Dockerfile takes the machine's memory.
func DefaultJobs() int { return max(16, 4*runtime.GOMAXPROCS(0)) }
