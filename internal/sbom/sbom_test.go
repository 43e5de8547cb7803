package sbom

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/entry"
)

func files(list map[string]string) *entry.Mem {
	m := entry.NewMem()
	for p, text := range list {
		m.Add(entry.Entry{Path: p, Kind: entry.File, Mode: 0o755}, text)
	}
	return m
}

const osRelease = "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian 12\"\n"

func TestScan(t *testing.T) {
	tests := map[string]struct {
		files map[string]string
		want  []string // package URLs
	}{
		"dpkg": {map[string]string{"var/lib/dpkg/status": "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9+deb12u1\nDescription: a\n b\n\nPackage: gone\nStatus: deinstall ok config-files\nVersion: 1\n"},
			[]string{"pkg:deb/debian/libc6@2.36-9%2Bdeb12u1?arch=amd64&distro=debian-12"}},
		"without dpkg": {map[string]string{"var/lib/dpkg/status.d/base": "Package: base-files\nVersion: 12.4\nArchitecture: all\n", "var/lib/dpkg/status.d/base.md5sums": "Package: no\nVersion: 1\n"},
			[]string{"pkg:deb/debian/base-files@12.4?arch=all&distro=debian-12"}},
		"apk": {map[string]string{"lib/apk/db/installed": "C:Q1\nP:musl\nV:1.2.5-r0\nA:x86_64\nL:MIT\n\nP:zlib\nV:1.3\n"},
			[]string{"pkg:apk/debian/musl@1.2.5-r0?arch=x86_64&distro=debian-12", "pkg:apk/debian/zlib@1.3?distro=debian-12"}},
		"npm": {map[string]string{"app/node_modules/a/package.json": `{"name":"a","version":"1.0.0","license":"MIT"}`, "app/node_modules/@s/b/package.json": `{"name":"@s/b","version":"2.0.0"}`,
			"app/package.json": `{"name":"own","version":"1"}`, "app/node_modules/c/test/package.json": `{"name":"fixture","version":"1"}`, "app/node_modules/d/package.json": `{`},
			[]string{"pkg:npm/%40s/b@2.0.0", "pkg:npm/a@1.0.0"}},
		"pip": {map[string]string{"usr/lib/python3/Py_Yaml-6.dist-info/METADATA": "Metadata-Version: 2.1\nName: Py_Yaml\nVersion: 6.0\nLicense: MIT\n\nName: of the text\n"},
			[]string{"pkg:pypi/py-yaml@6.0"}},
		"a long line":      {map[string]string{"var/lib/dpkg/status": "Package: a\nVersion: 1\nDescription: " + strings.Repeat("x", 2<<20) + "\n\nPackage: b\nVersion: 1\n"}, []string{"pkg:deb/debian/a@1?distro=debian-12", "pkg:deb/debian/b@1?distro=debian-12"}},
		"lines of DOS":     {map[string]string{"a-1.dist-info/METADATA": "Name: a\r\nVersion: 1\r\n\r\nName: evil\r\nVersion: 6\r\n"}, []string{"pkg:pypi/a@1"}},
		"a description":    {map[string]string{"a-1.dist-info/METADATA": "Name: a\nVersion: 1\nDescription: text\n  \nName: evil\nVersion: 6\n"}, []string{"pkg:pypi/a@1"}},
		"what is no name":  {map[string]string{"lib/apk/db/installed": "P:a\x1b[31m\nV:1\n\nP:" + strings.Repeat("x", 600) + "\nV:1\n"}, nil},
		"nothing but text": {map[string]string{"bin/sh": "#!/bin/sh\n" + goMagic + "\n"}, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			tt.files["etc/os-release"] = osRelease
			v, err := Scan(t.Context(), files(tt.files))
			if err != nil || v.System != (System{"debian", "12", "Debian 12"}) || len(v.Files) != len(tt.files) {
				t.Fatalf("%+v, %v", v, err)
			}
			var got []string
			for _, p := range v.Packages {
				got = append(got, p.URL)
			}
			if strings.Join(got, " ") != strings.Join(tt.want, " ") {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestTheModulesOfAProgram(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		t.Skip("needs a test program with build information")
	}
	for _, piece := range []int{1 << 20, 4096, 37} {
		g := &goInfo{}
		for at := 0; at < len(b); at += piece {
			if _, err := g.Write(b[at:min(len(b), at+piece)]); err != nil {
				t.Fatal(err)
			}
			if piece == 37 && g.found != nil && len(g.found) > 1<<16 {
				break
			}
		}
		if text, whole := g.text(); !whole || !strings.Contains(text, "path\t"+info.Path) {
			t.Errorf("in pieces of %d: %q, whole %t, want that of %s", piece, text, whole, info.Path)
		}
	}
	// What comes after it is none of its text, however much that is.
	for said, want := range map[string]bool{"\x03go1\x21" + strings.Repeat("x", 33): true, "\x03go1\x00": true, "\x03go1\xff\xff\xff\x7f": false} {
		g := &goInfo{}
		_, _ = g.Write([]byte(goMagic + "\x08\x02" + strings.Repeat("\x00", 16) + said + strings.Repeat("x", 2*maxGoInfo)))
		if text, whole := g.text(); whole != want {
			t.Errorf("%q: %q, whole %t", said, text, whole)
		}
	}
	s := newScanner(t.Context(), files(nil))
	s.golang("app", "path\texample.com/app\nmod\texample.com/app\tv1.2.3\t\ndep\texample.com/a\tv1.0.0\th1:x=\ndep\texample.com/b\tv1.0.0\n=>\texample.com/fork\tv2.0.0\th1:y=\n")
	var got []string
	for _, p := range s.out.Packages {
		got = append(got, p.URL)
	}
	if want := "pkg:golang/example.com/app@v1.2.3 pkg:golang/example.com/a@v1.0.0 pkg:golang/example.com/fork@v2.0.0"; strings.Join(got, " ") != want {
		t.Errorf("got %q", got)
	}
}

func TestRPMsOwnDatabase(t *testing.T) {
	build, err := exec.LookPath("rpmbuild")
	if err != nil {
		t.Skipf("needs rpmbuild: %v", err)
	}
	dir := t.TempDir()
	db := filepath.Join(dir, "db")
	for i := range 12 { // more than goes into one page
		name := "pkg" + string(rune('a'+i/10)) + string(rune('0'+i%10))
		spec := filepath.Join(dir, name+".spec")
		text := "Name: " + name + "\nVersion: 1.2\nRelease: 3\nEpoch: 4\nSummary: s\nLicense: MIT\nBuildArch: noarch\n%description\n" + strings.Repeat("words ", 2000) + "\n%files\n"
		if err := os.WriteFile(spec, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		run(t, build, "--define", "_topdir "+dir, "-bb", spec)
		run(t, "rpm", "--dbpath", db, "-i", "--justdb", "--nodeps", filepath.Join(dir, "RPMS/noarch", name+"-1.2-3.noarch.rpm"))
	}
	run(t, "sqlite3", filepath.Join(db, "rpmdb.sqlite"), "PRAGMA wal_checkpoint(TRUNCATE)")
	b, err := os.ReadFile(filepath.Join(db, "rpmdb.sqlite"))
	if err != nil {
		t.Fatal(err)
	}
	v, err := Scan(t.Context(), files(map[string]string{"var/lib/rpm/rpmdb.sqlite": string(b), "etc/os-release": "ID=fedora\nVERSION_ID=40\n"}))
	if err != nil || len(v.Packages) != 12 || v.Missed != nil {
		t.Fatalf("%d packages, missed %v, %v", len(v.Packages), v.Missed, err)
	}
	if got, want := v.Packages[0].URL, "pkg:rpm/fedora/pkga0@1.2-3?arch=noarch&epoch=4&distro=fedora-40"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("needs %s: %v", name, err)
	}
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

func TestSPDX(t *testing.T) {
	v, err := Scan(t.Context(), files(map[string]string{"etc/os-release": osRelease, "lib/apk/db/installed": "P:a\nV:1\nL:MIT AND (GPL-2.0-only OR Zlib)\n\nP:b\nV:1\nL:see the file\n"}))
	if err != nil {
		t.Fatal(err)
	}
	origin := func(p string) string {
		if p == "lib/apk/db/installed" {
			return "stage build"
		}
		return ""
	}
	d := v.SPDX("app", digest.Of([]byte("x")), time.Unix(0, 0), origin)
	b, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := json.Marshal(v.SPDX("app", digest.Of([]byte("x")), time.Unix(0, 0), origin)); !bytes.Equal(b, again) {
		t.Error("the same inventory gave another document")
	}
	for _, want := range []string{`"spdxVersion":"SPDX-2.3"`, `"licenseDeclared":"MIT AND (GPL-2.0-only OR Zlib)"`, `"extractedText":"see the file"`, `"comment":"from stage build"`,
		`"relationshipType":"DESCRIBES"`, `"created":"1970-01-01T00:00:00Z"`, `"fileName":"./etc/os-release"`} {
		if !bytes.Contains(b, []byte(want)) {
			t.Errorf("%s has no %s", b, want)
		}
	}
	known := map[string]bool{d.ID: true}
	for _, p := range d.Packages {
		known[p.ID] = true
	}
	for _, f := range d.Files {
		known[f.ID] = true
	}
	for _, r := range d.Relationships {
		if !known[r.From] || !known[r.To] {
			t.Errorf("%+v names what is not there", r)
		}
	}
}

// TestLicenses: what is declared is an expression of SPDX, and each LicenseRef in it is in the
// document.
func TestLicenses(t *testing.T) {
	for text, want := range map[string]string{
		"MIT":                            "MIT",
		"mit":                            "MIT",
		"GPL-2.0+":                       "GPL-2.0+",
		"Apache-2.0+":                    "Apache-2.0+",
		"(MIT)":                          "(MIT)",
		" (MIT OR Apache-2.0) AND  Zlib": "(MIT OR Apache-2.0) AND Zlib",
		"((MIT OR Zlib) AND (0BSD))":     "((MIT OR Zlib) AND (0BSD))",
		"GPL-2.0-only WITH GCC-exception-2.0 OR MIT": "GPL-2.0-only WITH GCC-exception-2.0 OR MIT",
		"":                                     "NOASSERTION",
		"UNKNOWN":                              "NOASSERTION",
		"NOASSERTION":                          "NOASSERTION",
		"BSD":                                  "LicenseRef-",
		"GPLv2+ and MIT":                       "LicenseRef-",
		"(MIT":                                 "LicenseRef-",
		"MIT)":                                 "LicenseRef-",
		"()":                                   "LicenseRef-",
		"MIT Zlib":                             "LicenseRef-",
		"MIT AND":                              "LicenseRef-",
		"AND MIT":                              "LicenseRef-",
		"MIT WITH":                             "LicenseRef-",
		"MIT WITH Zlib":                        "LicenseRef-",
		"(MIT OR Zlib) WITH GCC-exception-2.0": "LicenseRef-",
		"GPL-2.0-only WITH GCC-exception-2.0+": "LicenseRef-",
		"MIT (Zlib)":                           "LicenseRef-",
		"LicenseRef-mine":                      "LicenseRef-",
		"+":                                    "LicenseRef-",
		// A call for each would take more stack than there is.
		strings.Repeat("(", 20<<20): "LicenseRef-",
	} {
		l := newLicensing()
		got := l.declared(text)
		if again := l.declared(text); again != got || len(l.refs) > 1 {
			t.Errorf("%q is once %s and once %s, with %v", text, got, again, l.refs)
		}
		if want != "LicenseRef-" {
			if got != want || l.refs != nil {
				t.Errorf("%q: got %q, want %q (%v)", text, got, want, l.refs)
			}
			continue
		}
		if len(l.refs) != 1 || l.refs[0].ID != got || l.refs[0].Text != text || !strings.HasPrefix(got, want) || got == text {
			t.Errorf("%q: got %q with %v", text, got, l.refs)
		}
	}
	d := (&Inventory{Packages: []Package{{Name: "a", License: "BSD"}, {Name: "b", License: "BSD"}}}).SPDX("x", digest.Of(nil), time.Unix(0, 0), func(string) string { return "" })
	if len(d.Licenses) != 1 || d.Packages[1].Declared != d.Licenses[0].ID || d.Packages[2].Declared != d.Licenses[0].ID {
		t.Errorf("%+v, %+v", d.Packages, d.Licenses)
	}
}

func FuzzDatabases(f *testing.F) {
	page := make([]byte, 1024)
	copy(page, "SQLite format 3\x00\x02\x00")
	page[100], page[104], page[108], page[109] = 13, 1, 1, 0
	f.Add(page)
	f.Add([]byte("Package: a\nVersion: 1\n\n"))
	f.Add([]byte(goMagic + "\x08\x02" + strings.Repeat("\x00", 16) + "\x03go1\x21" + strings.Repeat("x", 33)))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := newScanner(t.Context(), files(nil))
		for _, read := range []reader{(*scanner).dpkg, (*scanner).apk, (*scanner).rpm, (*scanner).npm, (*scanner).pip} {
			_ = read(s, "found", b)
		}
		g := &goInfo{}
		for at := 0; at < len(b); at += 7 {
			_, _ = g.Write(b[at:min(len(b), at+7)])
		}
		text, _ := g.text()
		s.golang("found", text)
		readHeader(b)
		for _, p := range s.out.Packages {
			if !plain(p.Name) || !plain(p.Version) {
				t.Errorf("%q %q", p.Name, p.Version)
			}
		}
	})
}
