package dockerfile

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/whittle-build/whittle/internal/lazyre"
)

// SyntaxArg is the build argument that stands for the file's "# syntax=" line.
const SyntaxArg = "BUILDKIT_SYNTAX"

// CheckArg is the build argument that stands for the file's "# check=" line.
const CheckArg = "BUILDKIT_DOCKERFILE_CHECK"

// reFrontend is the reference's own frontend, from Docker Hub or a mirror of
// it, in any release and channel.
var reFrontend = lazyre.New(`^(?:[^/]+/)*docker/dockerfile[a-z-]*(?::[^@/]*)?(?:@[^/]*)?$`)

func isFrontend(ref string) bool {
	return ref == "dockerfile.v0" || reFrontend.MatchString(ref)
}

// CheckSyntax refuses a file that asks for another frontend than the
// reference's: it is no Dockerfile as whittle knows it, and may be no
// Dockerfile at all. The build argument of that name goes before the file's
// own line.
func CheckSyntax(name string, src []byte, args map[string]string) *Error {
	if v, ok := args[SyntaxArg]; ok {
		ref, _, _ := strings.Cut(strings.TrimSpace(v), " ")
		if isFrontend(ref) {
			return nil
		}
		return &Error{File: name, Msg: fmt.Sprintf("build-arg %s=%s: frontend %q is not the Dockerfile's: whittle reads Dockerfiles itself and runs no frontend images", SyntaxArg, v, ref),
			Hint: "leave the argument out, or pass " + SyntaxArg + "=docker/dockerfile:1"}
	}
	ref, _, at, ok := parser.DetectSyntax(src)
	if !ok || isFrontend(ref) {
		return nil
	}
	pos := Pos{1, 1}
	if len(at) > 0 && at[0].Start.Line > 0 {
		pos = Pos{at[0].Start.Line, at[0].Start.Line}
	}
	lines := bytes.Split(bytes.TrimPrefix(src, []byte("\uFEFF")), []byte("\n"))
	f := &File{Name: name}
	for _, line := range lines[:min(pos.Line, len(lines))] {
		f.lines = append(f.lines, strings.ToValidUTF8(string(line[:min(len(line), maxLine)]), "\uFFFD"))
	}
	return f.Mistake(pos, fmt.Sprintf("syntax %s: this frontend is not the Dockerfile's: whittle reads Dockerfiles itself and runs no frontend images", ref),
		"if the file is an ordinary Dockerfile, remove the line or build with --build-arg "+SyntaxArg+"=docker/dockerfile:1")
}
