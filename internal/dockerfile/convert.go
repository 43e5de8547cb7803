package dockerfile

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/whittle-build/whittle/internal/address"
	"github.com/whittle-build/whittle/internal/config"
)

// convert makes whittle's own type of an instruction that the reference has
// accepted. Its mistakes have no position yet.
func (p *reading) convert(n *parser.Node, c instructions.Command) (*Instruction, *Error) {
	in := &Instruction{Pos: nodePos(n), Keyword: n.Value, Text: address.Redact(strings.TrimSpace(n.Original)), Check: checkAbove(n.PrevComment)}
	cmd, mistake := convertCommand(c)
	if mistake != nil {
		return nil, mistake
	}
	in.Command = cmd
	p.lintInstruction(n, in)
	return in, nil
}

func wrong(hint, format string, args ...any) *Error {
	return &Error{Msg: fmt.Sprintf(format, args...), Hint: hint}
}

func convertCommand(c instructions.Command) (Command, *Error) {
	switch c := c.(type) {
	case *instructions.RunCommand:
		return convertRun(c)
	case *instructions.CopyCommand:
		return convertCopy(c.SourcesAndDest, Copy{From: c.From, Chown: c.Chown, Chmod: c.Chmod, Link: c.Link, Parents: c.Parents, Excludes: c.ExcludePatterns})
	case *instructions.AddCommand:
		return convertCopy(c.SourcesAndDest, Copy{Add: true, Chown: c.Chown, Chmod: c.Chmod, Link: c.Link, Excludes: c.ExcludePatterns,
			Checksum: c.Checksum, KeepGitDir: c.KeepGitDir, Unpack: c.Unpack})
	}
	return convertConfig(c)
}

func convertConfig(c instructions.Command) (Command, *Error) {
	switch c := c.(type) {
	case *instructions.ArgCommand:
		return convertArg(c), nil
	case *instructions.EnvCommand:
		return &Env{pairs(c.Env)}, nil
	case *instructions.LabelCommand:
		return &Label{pairs(c.Labels)}, nil
	case *instructions.CmdCommand:
		return &Cmd{words(c.ShellDependantCmdLine)}, nil
	case *instructions.EntrypointCommand:
		return &Entrypoint{words(c.ShellDependantCmdLine)}, nil
	case *instructions.WorkdirCommand:
		return &Workdir{c.Path}, nil
	case *instructions.UserCommand:
		return &User{c.User}, nil
	case *instructions.ExposeCommand:
		return &Expose{c.Ports}, nil
	case *instructions.VolumeCommand:
		return &Volume{c.Volumes}, nil
	case *instructions.ShellCommand:
		return &Shell{c.Shell}, nil
	case *instructions.StopSignalCommand:
		return &StopSignal{c.Signal}, nil
	case *instructions.HealthCheckCommand:
		return &Healthcheck{config.Healthcheck{
			Test: c.Health.Test, Interval: c.Health.Interval, Timeout: c.Health.Timeout,
			StartPeriod: c.Health.StartPeriod, StartInterval: c.Health.StartInterval, Retries: c.Health.Retries,
		}}, nil
	case *instructions.OnbuildCommand:
		return &Onbuild{c.Expression}, nil
	case *instructions.MaintainerCommand:
		return &Maintainer{c.Maintainer}, nil
	}
	return nil, wrong("", "%s: an instruction that this version does not know", c.Name())
}

// wordCount is how many words an instruction has that are handled one by one.
func wordCount(c Command) int {
	switch c := c.(type) {
	case *Run:
		return 1 + c.mounts.count() + len(c.Devices)
	case *Arg:
		return len(c.Items)
	case *Env:
		return len(c.Pairs)
	case *Label:
		return len(c.Pairs)
	case *Copy:
		return len(c.Sources) + len(c.Heredocs)
	case *Expose:
		return len(c.Ports)
	case *Volume:
		return len(c.Paths)
	}
	return 1
}

func convertArg(c *instructions.ArgCommand) *Arg {
	items := make([]ArgItem, len(c.Args))
	for i, a := range c.Args {
		items[i] = ArgItem{Key: a.Key, Default: a.Value, Doc: a.DocComment}
	}
	return &Arg{items}
}

func pairs(kvs instructions.KeyValuePairs) []Pair {
	out := make([]Pair, len(kvs))
	for i, kv := range kvs {
		out[i] = Pair{Key: kv.Key, Value: kv.Value, Legacy: kv.NoDelim}
	}
	return out
}

func words(c instructions.ShellDependantCmdLine) Words {
	return Words{Args: slices.Clone(c.CmdLine), Shell: c.PrependShell}
}

func convertRun(c *instructions.RunCommand) (Command, *Error) {
	run := &Run{Words: words(c.ShellDependantCmdLine)}
	runFlags(c, run)
	if !run.Shell && len(run.Args) == 0 {
		return nil, wrong(`write the command: RUN ["program", "argument"]`, "RUN requires at least one argument")
	}
	if len(c.Files) == 0 {
		return run, nil
	}
	if len(run.Args) != 1 || !run.Shell {
		return nil, wrong("a heredoc needs the shell form of RUN", "RUN: a heredoc cannot be part of the JSON form")
	}
	if parser.MustParseHeredoc(run.Args[0]) != nil {
		run.Script = &Heredoc{Name: c.Files[0].Name, Content: c.Files[0].Data}
		if c.Files[0].Chomp {
			run.Script.Content = parser.ChompHeredocContent(run.Script.Content)
		}
		run.Args = []string{run.Script.Content}
		return run, nil
	}
	// The shell reads its own heredocs, so it gets the text as it was.
	var b strings.Builder
	b.WriteString(run.Args[0])
	for _, file := range c.Files {
		b.WriteByte('\n')
		b.WriteString(file.Data)
		b.WriteString(file.Name)
	}
	run.Args = []string{b.String()}
	return run, nil
}

func convertCopy(s instructions.SourcesAndDest, c Copy) (Command, *Error) {
	c.Sources, c.Dest = slices.Clone(s.SourcePaths), s.DestPath
	for _, h := range s.SourceContents {
		if name := path.Clean("/" + h.Path)[1:]; name == "" || strings.Contains(name, "/") {
			return nil, wrong("the name of a heredoc becomes a file name; write the folder into the destination, with / at its end",
				"<<%s: a heredoc's name cannot be a path", h.Path)
		}
		c.Heredocs = append(c.Heredocs, Heredoc{Name: h.Path, Content: h.Data, Expand: h.Expand})
	}
	return &c, nil
}
