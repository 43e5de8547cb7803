package copying

import (
	"fmt"
	"strings"
)

// NotFound is a source that From does not have.
type NotFound struct {
	Source string   // as written
	Link   string   // target of the link that the source is, if it is one
	Near   []string // what may have been meant, the likeliest first
}

func (e *NotFound) Error() string {
	source := "/" + strings.TrimLeft(e.Source, "/")
	if e.Link != "" {
		return fmt.Sprintf("%q: a link to %q: not found", source, e.Link)
	}
	return fmt.Sprintf("%q: not found", source)
}

// NotKept is a source of Parents that From has, and that is not copied.
type NotKept struct {
	Source string
	Reason string
	Hint   string
}

func (e *NotKept) Error() string { return fmt.Sprintf("--parents: %q: %s", e.Source, e.Reason) }

// Conflict is a source of one kind that would replace something of another.
type Conflict struct {
	Path      string // absolute, in the image
	Source    string // in From; "" when a directory is to be made for it
	Directory bool   // Path is a directory and the source is not
	Parent    bool   // Path is not a directory and something goes below it
}

func (e *Conflict) Error() string {
	if e.Directory {
		return "cannot replace to directory " + e.Path + " with file"
	}
	if e.Parent {
		return "mkdir " + e.Path + ": not a directory"
	}
	return "cannot copy to non-directory: " + e.Path
}

// BadMode is a --chmod that is neither octal nor symbolic.
type BadMode struct {
	Mode string
}

func (e *BadMode) Error() string {
	if e.numeric() {
		return fmt.Sprintf("invalid chmod parameter: '%s'. it should be octal string and between 0 and 07777", e.Mode)
	}
	return fmt.Sprintf("invalid chmod parameter: '%s'. it should be octal or like u=rwX,go=rX", e.Mode)
}

// numeric reports whether the author meant a number.
func (e *BadMode) numeric() bool {
	return e.Mode != "" && e.Mode[0] >= '0' && e.Mode[0] <= '9'
}

// BadPattern is a source with wildcards that path.Match does not accept.
type BadPattern struct {
	Source string // as written
}

func (e *BadPattern) Error() string {
	return fmt.Sprintf("%q: syntax error in pattern", e.Source)
}

// BadTable is a file in which To has no users or groups that can be read.
type BadTable struct {
	Path   string // absolute, in the image
	Reason string
}

func (e *BadTable) Error() string { return e.Path + ": " + e.Reason }

// Unfit is a source that a layer cannot hold.
type Unfit struct {
	Path   string // in From
	Reason string
}

func (e *Unfit) Error() string { return e.Path + ": " + e.Reason }

// InArchive is an error about something that an archive has.
type InArchive struct {
	Archive string // Request.Name
	Err     error
}

func (e *InArchive) Error() string { return "ADD " + e.Archive + ": " + e.Err.Error() }
func (e *InArchive) Unwrap() error { return e.Err }
