package whittle

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/whittle-build/whittle/internal/image"
)

// Kinds of Output.
const (
	ImageOutput  = "image"  // an image in the store, perhaps pushed as well
	OCIOutput    = "oci"    // an OCI layout, in a tar or in a folder
	DockerOutput = "docker" // an archive for docker load, or an image in a running engine
	LocalOutput  = "local"  // the files of the stage, in a folder
	TarOutput    = "tar"    // the files of the stage, in a tar
	NoOutput     = "none"   // nothing: the steps are run, and that is all
)

// Output is a form in which a build leaves what it made.
type Output struct {
	Type string // one of the kinds
	// Dest is the file of an archive or a tar, which is there whole or not at all;
	// "-" is the request's Out. Of LocalOutput, and of an archive with Folder, it is
	// a folder: one that is not there is made, in one that is there each file is replaced whole,
	// and what the stage does not have stays. A DockerOutput without one goes to the
	// running engine.
	Dest   string
	Folder bool     // of OCIOutput: not in a tar
	Names  []string // of the image in this output; none means the request's tags
	// Push uploads an ImageOutput under each of its names, while it is made. By
	// digest, no tag is set in the registry, and no name here.
	Push, ByDigest bool
	// Form is that of layers that leave the store. Those that came from a registry
	// keep the form that they came in when they are pushed, unless it is forced.
	Form        Compression
	Force       bool
	DockerTypes bool     // media types of Docker's manifests, not the OCI's
	Annotations []string // of this output alone, as in Request
	// Split puts the files into a folder called after the platform, which is done for several
	// platforms in any case, unless Together.
	Split, Together bool
	// RewriteTimes sets times of files in the build's own layers that are later than the
	// SourceDateEpoch back to that.
	RewriteTimes bool
}

// HasImage says whether the output is an image, in whatever form.
func (o *Output) HasImage() bool {
	return o.Type == ImageOutput || o.Type == OCIOutput || o.Type == DockerOutput
}

// HasFiles says whether the output is the files of the stage.
func (o *Output) HasFiles() bool { return o.Type == LocalOutput || o.Type == TarOutput }

// isFolder says whether the output is a folder that it writes into.
func (o *Output) isFolder() bool { return o.Folder || o.Type == LocalOutput }

// loads says whether the output goes to a running engine.
func (o *Output) loads() bool { return o.Type == DockerOutput && o.Dest == "" }

// Check reports parts of an output that do not go together.
func (o *Output) Check() error {
	for _, c := range []struct {
		bad           bool
		what, instead string
	}{
		{!o.HasImage() && !o.HasFiles() && o.Type != NoOutput, fmt.Sprintf("type=%s is unknown", o.Type), "there are image, registry, oci, docker, local, tar and none"},
		{o.Dest == "" && (o.HasFiles() || o.Type == OCIOutput), "has no dest", "say where it goes: dest=PATH, or dest=- for a tar on standard output"},
		{o.Dest != "" && (o.Type == ImageOutput || o.Type == NoOutput), "dest: it goes to no file", "an image in a file is type=oci or type=docker"},
		{o.Dest == "-" && (o.Folder || o.Type == LocalOutput), "dest=-: a folder does not go to standard output", "type=tar writes the files as a tar, type=oci an image as one"},
		{o.Folder && o.Type != OCIOutput, "tar=false: is for type=oci", "leave it out; type=oci,tar=false,dest=FOLDER writes an OCI layout"},
		{len(o.Names) > 0 && !o.HasImage(), "name: files have no name", "name is for images"},
		{o.Push && o.Type != ImageOutput, "push=true: only an image is pushed", "add a second output: -o type=registry,name=NAME"},
		{o.ByDigest && !o.Push, "push-by-digest=true: nothing is pushed", "add push=true"},
		{(o.Split || o.Together) && !o.HasFiles(), "platform-split: is for type=local and type=tar", "leave it out"},
		{o.RewriteTimes && !o.HasImage(), "rewrite-timestamp: is for images", "files get the time of SOURCE_DATE_EPOCH without it; leave it out"},
		{o.DockerTypes && o.Form.Format == "zstd", "oci-mediatypes=false: Docker has no media type for zstd", "leave oci-mediatypes out, or take compression=gzip"},
		{o.DockerTypes && !o.HasImage(), "oci-mediatypes: is for images", "leave it out"},
		{len(o.Annotations) > 0 && !o.HasImage(), "annotation: files have no manifest", "leave it out"},
		{(o.Form != Compression{} || o.Force) && !o.leaves(), "compression: layers in the store are not compressed", "compression is for what leaves it: push=true, type=oci, type=docker,dest=FILE"},
	} {
		if c.bad {
			return &hinted{errors.New(c.what), c.instead}
		}
	}
	return o.Form.Check()
}

// leaves says whether layers leave the store in a form of their own.
func (o *Output) leaves() bool {
	return o.Type == ImageOutput && o.Push || (o.Type == OCIOutput || o.Type == DockerOutput) && o.Dest != ""
}

// output is an Output of a build, with what follows from its request.
type output struct {
	Output
	names       []image.Name
	annotations annotations
	image       *image.Image // in this form, once it is made
}

// takeOutputs completes what the request says of outputs, and finds what would
// keep one from being written, before anything runs.
func (b *build) takeOutputs() error {
	if err := b.req.CheckOutputs(); err != nil {
		return err
	}
	list := slices.Clone(b.req.Outputs)
	has := func(is func(o Output) bool) bool { return slices.ContainsFunc(list, is) }
	image := has(func(o Output) bool { return o.Type == ImageOutput })
	tagged := has(func(o Output) bool { return o.Type == ImageOutput && len(o.Names) == 0 })
	if len(b.req.Tags) > 0 && !tagged || !image && (b.req.Push || len(list) == 0 && !b.req.Load) {
		list = append(list, Output{Type: ImageOutput})
	}
	if b.req.Load {
		list = append(list, Output{Type: DockerOutput})
	}
	piped := 0
	for _, o := range list {
		o.Push = o.Push || b.req.Push && o.Type == ImageOutput
		done, err := b.takeOutput(o)
		if err != nil {
			return fmt.Errorf("output: %w", err)
		}
		if b.outputs = append(b.outputs, done); o.Dest == "-" {
			piped++
		}
	}
	if piped > 1 {
		return &hinted{errors.New("output: several of them go to standard output"), "give all but one a dest=FILE"}
	}
	if b.parted {
		return nil // the parts have the outputs
	}
	if b.losesAnnotations() && !b.another {
		b.note("output: the annotations are kept with no name, and written nowhere: nothing is named, pushed or written to an archive")
	}
	return b.checkAttestations()
}

// losesAnnotations says whether there are some, and nothing that could have them.
func (b *build) losesAnnotations() bool {
	return slices.ContainsFunc(b.outputs, func(o output) bool { return b.annotates(o.Output) }) &&
		!slices.ContainsFunc(b.outputs, func(o output) bool {
			return o.HasImage() && (o.Type != ImageOutput || o.Push || len(o.names) > 0)
		})
}

// annotates says whether there are annotations for an output, be it for another platform's image.
func (b *build) annotates(o Output) bool { return len(b.req.Annotations)+len(o.Annotations) > 0 }

func (b *build) takeOutput(o Output) (done output, err error) {
	if err := o.Check(); err != nil {
		return done, err
	}
	if b.peers && o.Type == DockerOutput {
		return done, &hinted{errors.New("type=docker: an engine's archive is for one platform"), "type=oci has an index of all of them"}
	}
	done = output{Output: o, names: b.tags}
	if err := b.checkByDigest(o); err != nil {
		return done, err
	}
	if len(o.Names) > 0 {
		done.names = nil
	}
	for _, text := range o.Names {
		n, err := parseTag(text)
		if err != nil {
			return done, err
		}
		done.names = append(done.names, n)
	}
	if o.Push && len(done.names) == 0 {
		return done, &hinted{errors.New("push: the image has no name"), "name it HOST/NAME:TAG"}
	}
	if done.annotations, err = annotationsOf(slices.Concat(b.req.Annotations, o.Annotations), b.platform, b.peers || b.req.attests()); err != nil {
		return done, err
	}
	if b.annotates(o) && o.DockerTypes { // each platform's manifest alike
		done.DockerTypes = false
		if !b.another {
			b.note("output: oci-mediatypes=false: Docker's manifests have no annotations; the OCI's media types are written")
		}
	}
	return done, o.checkDest()
}

// checkByDigest refuses a tag that nothing would get.
func (b *build) checkByDigest(o Output) error {
	texts := o.Names
	if len(texts) == 0 {
		texts = b.req.Tags
	}
	for _, text := range texts {
		name := text[strings.LastIndexByte(text, '/')+1:]
		if bare, tag, ok := strings.Cut(name, ":"); ok && o.ByDigest {
			return &hinted{fmt.Errorf("push-by-digest=true: %s: the registry gets no tag, and the name has %q", text, tag), "name the repository alone: " + strings.TrimSuffix(text, name) + bare}
		}
	}
	return nil
}

// checkDest finds what is in the way.
func (o *Output) checkDest() error {
	if o.Dest == "" || o.Dest == "-" {
		return nil
	}
	if !o.isFolder() {
		return CheckFile(o.Dest)
	}
	st, err := os.Stat(o.Dest)
	if errors.Is(err, fs.ErrNotExist) {
		if to, err := os.Readlink(o.Dest); err == nil {
			return &hinted{fmt.Errorf("%s: is a link to %s, which is not there", o.Dest, to), "remove the link, or make what it leads to"}
		}
		return nil
	}
	if err == nil && !st.IsDir() {
		err = &hinted{fmt.Errorf("%s: is not a folder", o.Dest), "name a folder, or what is not there yet"}
	}
	return err
}

// wants says whether the build has an output of which is holds.
func (b *build) wants(is func(*Output) bool) bool {
	return slices.ContainsFunc(b.outputs, func(o output) bool { return is(&o.Output) })
}

// onlyPushed says whether nothing reads the layers of the image here.
func (b *build) onlyPushed() bool {
	return b.wants(func(o *Output) bool { return o.Push }) && !b.req.Squash &&
		!b.wants(func(o *Output) bool { return o.Type != ImageOutput || o.RewriteTimes })
}

// pushedNames are those under which the image is pushed.
func (b *build) pushedNames() []image.Name {
	var names []image.Name
	for _, o := range b.outputs {
		if o.Push {
			names = append(names, o.names...)
		}
	}
	return names
}

// write writes to where an output goes. A file comes into its place at the end.
func (b *build) write(o *output, do func(io.Writer) error) error {
	if o.Dest == "-" {
		return do(b.req.Out)
	}
	d, err := writeBeside(o.Dest, do)
	if err == nil {
		b.ends.files = append(b.ends.files, d)
	}
	return err
}
