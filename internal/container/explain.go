package container

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/layer"
	"github.com/whittle-build/whittle/internal/sandbox"
)

// Explain turns the failure to start a process in a container made from image
// into words that say why, which an errno alone does not: "no such file" is most often about
// an interpreter, and a command that is not in PATH may lie at the root.
func Explain(err error, image string) error {
	var e *sandbox.StartError
	if !errors.As(err, &e) {
		return err
	}
	out := &Error{Msg: e.Error(), Err: err}
	switch e.Op {
	case "exec":
		explainExec(out, e, image)
	case "user":
		out.Way = "a user that the image does not have in its /etc/passwd can be given by number: -u 1000:1000"
	case "table":
		out.Way = "users of " + image + " are looked up there: make it a regular file in the image, or give numbers: -u 1000:1000"
	case "id":
		out.Way = layer.IDsHint
	case "dir":
		out.Msg = fmt.Sprintf("working directory %s: %v", e.Path, e.Err)
		out.Way = "choose another one with -w"
	case "mount":
		out.Way = "is the path in the container one that can be mounted on: a folder on a folder, a file on a file?"
	}
	return out
}

func explainExec(out *Error, e *sandbox.StartError, image string) {
	switch {
	case errors.Is(e.Err, sandbox.ErrNotInPath) && e.Found != "":
		out.Msg = fmt.Sprintf("exec: %q: executable file not found in $PATH; but %s exists", e.Path, e.Found)
		out.Way = fmt.Sprintf("write the whole path: CMD [%q] (or: run %s %s)", e.Found, image, e.Found)
	case errors.Is(e.Err, sandbox.ErrNotInPath):
		out.Way = fmt.Sprintf("no folder of PATH in %s has it: is it spelled right, and copied or installed into that stage?", image)
	case e.Interp != "":
		out.Msg = fmt.Sprintf("exec %s: no such file or directory: the file is there, but its interpreter %s is not", e.Path, e.Interp)
		out.Way = interpHint(e)
	case errors.Is(e.Err, unix.ENOENT):
		out.Way = fmt.Sprintf("%s has no such file: is the path right, and copied into that stage?", image)
	case errors.Is(e.Err, unix.ENOEXEC):
		out.Msg = fmt.Sprintf("exec %s: Exec format error", e.Path)
		out.Way = "it is neither a program for this machine nor a script with a #! line"
		if e.Machine != "" {
			out.Msg += fmt.Sprintf(": it is a program for %s", e.Machine)
			out.Way = fmt.Sprintf("build it for this machine (for Go: GOARCH), or run the image on a machine that is %s. Containers are emulated only where the machine runs such programs everywhere: as root, apt-get install binfmt-support qemu-user-static", e.Machine)
		}
	case errors.Is(e.Err, unix.EACCES):
		out.Way = "it must be a file, not a folder, that this user may execute: COPY --chmod=755, or chmod +x in the stage that makes it"
	case errors.Is(e.Err, unix.E2BIG):
		out.Way = "arguments and environment together are too long: put them into a file"
	}
}

func interpHint(e *sandbox.StartError) string {
	if strings.Contains(e.Interp, "ld-linux") || strings.Contains(e.Interp, "ld-musl") {
		return "it is linked dynamically: link it statically (for Go: CGO_ENABLED=0), or build on a base that has that loader"
	}
	return "the #! line of the script names a program that this image does not have"
}
