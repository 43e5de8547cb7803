package sbom

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
)

// packageURL writes a package URL (github.com/package-url/purl-spec).
func packageURL(kind, space, name, version string, qualifiers ...string) string {
	u := "pkg:" + kind + "/"
	for part := range strings.SplitSeq(space, "/") {
		if part != "" {
			u += escaped(part) + "/"
		}
	}
	u += escaped(name)
	if version != "" {
		u += "@" + url.QueryEscape(version)
	}
	sep := "?"
	for i := 0; i+1 < len(qualifiers); i += 2 {
		if qualifiers[i+1] != "" {
			u += sep + qualifiers[i] + "=" + url.QueryEscape(qualifiers[i+1])
			sep = "&"
		}
	}
	return u
}

func escaped(part string) string { return strings.ReplaceAll(url.PathEscape(part), "@", "%40") }

// distro is the system as a qualifier.
func (s *scanner) distro() string {
	if s.out.System.ID == "" || s.out.System.Version == "" {
		return s.out.System.ID
	}
	return s.out.System.ID + "-" + s.out.System.Version
}

// stanzas calls fn for each block of KEY: VALUE lines in b, with the keys that are wanted;
// of a key that is there twice the first counts.
func stanzas(b []byte, wanted []string, fn func(map[string]string)) {
	fields, any := map[string]string{}, false
	for line := range bytes.Lines(b) {
		if len(bytes.TrimSpace(line)) == 0 {
			if any {
				fn(fields)
			}
			fields, any = map[string]string{}, false
			continue
		}
		any = true
		k, v, ok := bytes.Cut(line, []byte(":")) // a line that goes on has a space first
		for _, w := range wanted {
			if _, twice := fields[w]; ok && !twice && string(k) == w {
				fields[w] = string(bytes.TrimSpace(v))
			}
		}
	}
	if any {
		fn(fields)
	}
}

// dpkg reads its database, or one package of it as images without dpkg have them.
func (s *scanner) dpkg(found string, b []byte) error {
	space := s.out.System.ID
	if space == "" {
		space = "debian"
	}
	stanzas(b, []string{"Package", "Status", "Version", "Architecture"}, func(f map[string]string) {
		if st, ok := f["Status"]; ok && !strings.HasSuffix(st, " installed") {
			return // removed, and its configuration is left
		}
		s.add(Package{Name: f["Package"], Version: f["Version"], Type: "deb", Found: found,
			URL: packageURL("deb", space, f["Package"], f["Version"], "arch", f["Architecture"], "distro", s.distro())})
	})
	return nil
}

// apk reads its database of what is installed.
func (s *scanner) apk(found string, b []byte) error {
	space := s.out.System.ID
	if space == "" {
		space = "alpine"
	}
	stanzas(b, []string{"P", "V", "L", "A"}, func(f map[string]string) {
		s.add(Package{Name: f["P"], Version: f["V"], Type: "apk", License: f["L"], Found: found,
			URL: packageURL("apk", space, f["P"], f["V"], "arch", f["A"], "distro", s.distro())})
	})
	return nil
}

// npm reads the manifest of an installed package.
func (s *scanner) npm(found string, b []byte) error {
	var m struct {
		Name    string `json:"name"`
		Version string `json:"version"`
		License any    `json:"license"` // a text, or an object in old ones
	}
	if err := json.Unmarshal(bytes.TrimPrefix(b, []byte("\uFEFF")), &m); err != nil {
		return fmt.Errorf("is no manifest of npm: %w", err)
	}
	space, name := "", m.Name
	if i := strings.LastIndexByte(m.Name, '/'); i >= 0 {
		space, name = m.Name[:i], m.Name[i+1:]
	}
	license, _ := m.License.(string)
	s.add(Package{Name: m.Name, Version: m.Version, Type: "npm", License: license, Found: found, URL: packageURL("npm", space, name, m.Version)})
	return nil
}

// pip reads the metadata of an installed package (packaging.python.org, "Core metadata"):
// the fields before the first empty line.
func (s *scanner) pip(found string, b []byte) error {
	end := 0
	for line := range bytes.Lines(b) {
		if len(bytes.TrimRight(line, "\r\n")) == 0 {
			break
		}
		end += len(line)
	}
	named := false
	stanzas(b[:end], []string{"Name", "Version", "License-Expression", "License"}, func(f map[string]string) {
		if named {
			return // a line of spaces was in the description
		}
		named = true
		license := f["License-Expression"]
		if license == "" {
			license = f["License"]
		}
		s.add(Package{Name: f["Name"], Version: f["Version"], Type: "pypi", License: license, Found: found,
			URL: packageURL("pypi", "", strings.ToLower(strings.ReplaceAll(f["Name"], "_", "-")), f["Version"])})
	})
	return nil
}

// goMagic begins what Go notes of a program in it (debug/buildinfo).
const goMagic = "\xff Go buildinf:"

// goInfo looks for that in a program which is written to it.
type goInfo struct {
	tail  []byte // of what came before
	found []byte // from the magic on
}

// maxGoInfo bounds what a program says of its modules.
const maxGoInfo = 4 << 20

// Write implements io.Writer.
func (g *goInfo) Write(p []byte) (int, error) {
	n := len(p)
	if g.found != nil {
		g.found = append(g.found, p[:min(n, maxGoInfo-len(g.found))]...)
		return n, nil
	}
	all := append(g.tail, p...)
	for from := 0; ; {
		i := bytes.Index(all[from:], []byte(goMagic))
		if i < 0 {
			g.tail = bytes.Clone(all[max(0, len(all)-len(goMagic)-2):])
			return n, nil
		}
		from += i
		// Programs that look for the magic have it too, without what follows: the size of
		// a pointer, flag 2 (since Go 1.18), and zeros up to 32 bytes, where the text begins.
		if len(all) < from+32 {
			g.tail = bytes.Clone(all[from:])
			return n, nil
		}
		if all[from+15]&2 != 0 && len(bytes.Trim(all[from+16:from+32], "\x00")) == 0 {
			g.found = bytes.Clone(all[from:min(len(all), from+maxGoInfo)])
			return n, nil
		}
		from++
	}
}

// text is what go version -m would print, "" when there is none; whole is false where the
// program says more than is read.
func (g *goInfo) text() (text string, whole bool) {
	if len(g.found) < 32 {
		return "", true
	}
	whole = len(g.found) < maxGoInfo
	_, rest, ok := cutString(g.found[32:]) // the version of Go
	if !ok {
		return "", whole
	}
	mod, _, ok := cutString(rest)
	if !ok {
		return "", whole
	}
	if len(mod) < 33 {
		return "", true
	}
	return mod[16 : len(mod)-16], true // between marks
}

func cutString(b []byte) (text string, rest []byte, ok bool) {
	n, size := binary.Uvarint(b)
	if size <= 0 || n > uint64(len(b)-size) {
		return "", nil, false
	}
	return string(b[size : size+int(n)]), b[size+int(n):], true
}

// golang takes the modules of a program.
func (s *scanner) golang(found, text string) {
	before := -1 // the package of the line before
	for line := range strings.Lines(text) {
		f := strings.Split(strings.TrimRight(line, "\n"), "\t")
		if len(f) < 3 || f[0] != "mod" && f[0] != "dep" && f[0] != "=>" {
			continue
		}
		if f[0] == "=>" && before >= 0 {
			s.out.Packages = s.out.Packages[:before] // was replaced by this
		}
		space, name := "", f[1]
		if i := strings.LastIndexByte(f[1], '/'); i >= 0 {
			space, name = f[1][:i], f[1][i+1:]
		}
		n := len(s.out.Packages)
		s.add(Package{Name: f[1], Version: f[2], Type: "golang", Found: found, URL: packageURL("golang", space, name, f[2])})
		if before = n; len(s.out.Packages) == n {
			before = -1 // it was not taken
		}
	}
}
