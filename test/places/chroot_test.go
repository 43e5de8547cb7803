package places

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Root in a container that docker run makes by default: with its seccomp profile
// and its capabilities, and nothing else.
func ordinary(options ...string) place { return place{disk: true, options: options} }

// examples builds all six, some of what they show in two ways, and a step that
// apt-get and make run in, and saves the images to $out.
const examples = `
apt=--build-arg=APT_MIRROR=file:/usr/share/stand-in/apt
build() { $WHITTLE build --progress plain -t "$@" 2>>$out/log || { cat $out/log; exit 1; }; }
build one:1 1-http-service
build two:1 -f 2-path-and-time-zone/Dockerfile.corrected 2-path-and-time-zone
build three:1 $apt -f 3-lower-case-and-side-by-side/Dockerfile.corrected 3-lower-case-and-side-by-side
build foo:1 --target foo $apt -f 3-lower-case-and-side-by-side/Dockerfile.corrected 3-lower-case-and-side-by-side
build four:1 4-folders
build five:1 5-onbuild-and-thin
build onbuild:1 -f 5-onbuild-and-thin/Dockerfile.onbuild 5-onbuild-and-thin
build six:1 $apt -f 6-missing-interpreter/Dockerfile.corrected 6-missing-interpreter
for i in one two three foo four five onbuild six; do $WHITTLE save -o $out/$i.tar $i:1; done
`

// TestRootInAContainerBuildsTheExamples is about containers that may not mount:
// the images are those that root builds outside, where it may do all.
func TestRootInAContainerBuildsTheExamples(t *testing.T) {
	in, out := t.TempDir(), t.TempDir()
	said := ordinary("-v", in+":/out").must(t, `
		bash /src/standins/load
		whittle info
		cd /src/examples
		out=/out
		`+examples+`
		whittle fsck
		ls $WHITTLE_ROOT/tmp | sed 's/^/left in tmp: /'`)
	if strings.Contains(said, "left in tmp") || !strings.Contains(said, "chroot (the first that works here)") {
		t.Errorf("said %s", said)
	}
	log, err := os.ReadFile(filepath.Join(in, "log"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(log), "isolation chroot: nothing keeps steps from this container") {
		t.Errorf("nobody said what is not protected:\n%s", log)
	}
	outside(t, out, "../../standins/load\ncd ../../examples\nout="+out+"\n"+examples)
	images, err := filepath.Glob(filepath.Join(out, "*.tar"))
	if err != nil || len(images) < 6 {
		t.Fatalf("%d images outside, %v", len(images), err)
	}
	for _, image := range images {
		name := filepath.Base(image)
		got, want := listing(t, filepath.Join(in, name)), listing(t, image)
		if !slices.Equal(got, want) {
			t.Errorf("%s differs:\n%s", name, difference(got, want))
		}
	}
}

// outside runs a script as root of the machine, with the provider erofs.
func outside(t *testing.T, dir, script string) {
	t.Helper()
	cmd := exec.Command("bash", "-ec", script)
	cmd.Env = append(os.Environ(), "WHITTLE="+theMachine.m.whittle, "WHITTLE_ROOT="+filepath.Join(dir, "store"), "WHITTLE_ROOTFS=erofs")
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
}

// listing is what an image's layers have, layer by layer: names, kinds, modes,
// owners, links and attributes. Times, and the content of files that have some
// in them, differ from build to build.
func listing(t *testing.T, archive string) []string {
	t.Helper()
	var out []string
	for i, name := range layersOf(t, archive) {
		inArchive(t, archive, name, func(r io.Reader) {
			for tr := tar.NewReader(r); ; {
				h, err := tr.Next()
				if err == io.EOF {
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				out = append(out, fmt.Sprintf("layer %d: %s %c %o %d:%d %q %q", i, h.Name, h.Typeflag, h.Mode, h.Uid, h.Gid, h.Linkname,
					h.PAXRecords["SCHILY.xattr.security.capability"]))
			}
		})
	}
	return out
}

// layersOf are the names of an image's layers in its archive.
func layersOf(t *testing.T, archive string) []string {
	var manifest []struct{ Layers []string }
	inArchive(t, archive, "manifest.json", func(r io.Reader) {
		if err := json.NewDecoder(r).Decode(&manifest); err != nil || len(manifest) != 1 {
			t.Fatalf("%s: %v", archive, err)
		}
	})
	return manifest[0].Layers
}

func inArchive(t *testing.T, archive, name string, read func(io.Reader)) {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if err != nil {
			t.Fatalf("%s: %s: %v", archive, name, err)
		}
		if h.Name == name {
			read(tr)
			return
		}
	}
}

// difference shows the lines that one list has and the other has not.
func difference(got, want []string) string {
	var b strings.Builder
	for _, s := range []struct {
		sign    string
		in, not []string
	}{{"+", got, want}, {"-", want, got}} {
		has := map[string]bool{}
		for _, l := range s.not {
			has[l] = true
		}
		for _, l := range s.in {
			if !has[l] && b.Len() < 4000 {
				fmt.Fprintf(&b, "%s %s\n", s.sign, l)
			}
		}
	}
	return b.String()
}

// TestAClustersContainerBuilds is about a pod under the baseline policy: its own
// file system is read-only, and what it may write to is a volume.
func TestAClustersContainerBuilds(t *testing.T) {
	said := ordinary("--read-only").must(t, `
		bash /src/standins/load busybox
		mkdir /disk/app
		cd /disk/app
		printf 'FROM busybox\nRUN echo "$(id -u) $(cat /proc/self/comm)" >/who && chown 12:34 /who\nRUN --mount=type=cache,target=/c echo 1 >>/c/n\nRUN --mount=type=cache,target=/c echo 2 >>/c/n && cp /c/n /n\n' >Dockerfile
		whittle build -t app .
		whittle create --name c app
		whittle cp c:/who - | tar -xO
		whittle cp c:/n - | tar -xO | tr '\n' '+'`)
	if !strings.Contains(said, "0 cat\n") || !strings.HasSuffix(said, "1+2+") {
		t.Errorf("said %s", said)
	}
}

// TestCapabilitiesThatAChrootLacksAreNamed is about containers that have less
// than Docker gives: each of these would leave steps running, or files with
// other modes, without a word.
func TestCapabilitiesThatAChrootLacksAreNamed(t *testing.T) {
	for drop, want := range map[string]string{
		"KILL":   "root lacks capabilities here: KILL",
		"FSETID": "root lacks capabilities here: FSETID",
		"ALL":    "root lacks capabilities here: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, SYS_CHROOT",
	} {
		t.Run(drop, func(t *testing.T) {
			said, code := ordinary("--cap-drop", drop).inside(t, `
				whittle info
				mkdir /tmp/app
				printf 'FROM scratch\nRUN true\n' >/tmp/app/Dockerfile
				whittle build /tmp/app`)
			if _, built, _ := strings.Cut(said, "seccomp"); code == 0 || strings.Count(said, want) < 2 || !strings.Contains(built, want) {
				t.Errorf("exit code %d, said %s", code, said)
			}
		})
	}
}

// TestAStepDiesWithWhittle kills whittle while a step runs: the step is gone, and
// what lay around goes with the next build.
func TestAStepDiesWithWhittle(t *testing.T) {
	said := ordinary().must(t, `
		bash /src/standins/load busybox
		mkdir /tmp/app
		cd /tmp/app
		printf 'FROM busybox\nRUN setsid sleep 54321 & sleep 54322\n' >Dockerfile
		sleeping() { grep -lsaz '^5432[12]' /proc/[0-9]*/cmdline | wc -l; }
		whittle build . 2>/dev/null &
		for i in $(seq 300); do (($(sleeping) == 2)) && break; sleep 0.1; done
		echo "asleep: $(sleeping)"
		kill -9 $!
		for i in $(seq 100); do (($(sleeping) == 0)) && break; sleep 0.1; done
		echo "asleep after the kill: $(sleeping)"
		printf 'FROM busybox\nRUN true\n' >Dockerfile
		whittle build -q .
		echo "in tmp: $(ls $WHITTLE_ROOT/tmp)"
		whittle fsck`)
	for _, want := range []string{"asleep: 2\n", "asleep after the kill: 0\n", "in tmp: \n"} {
		if !strings.Contains(said, want) {
			t.Errorf("not said %q:\n%s", want, said)
		}
	}
}

// TestNpmInstallsInAContainer installs a package from an archive of files.
func TestNpmInstallsInAContainer(t *testing.T) {
	node, err := exec.LookPath("node")
	npm := "/usr/lib/node_modules/npm"
	if _, nerr := os.Stat(npm); err != nil || nerr != nil {
		t.Skip("needs node and npm of this machine")
	}
	said := ordinary("-v", node+":/node:ro", "-v", npm+":/npm:ro").must(t, `
		bash /src/standins/load debian
		mkdir -p /tmp/app/package
		cd /tmp/app
		printf '{"name":"left","version":"1.0.0","bin":{"left":"left.js"},"scripts":{"install":"node -p process.version >installed"}}' >package/package.json
		printf '#!/usr/bin/env node\nconsole.log("left is here")\n' >package/left.js
		tar -czf left-1.0.0.tgz package
		cp /node node
		cp -r /npm npm
		cat >Dockerfile <<-'EOF'
			FROM debian
			COPY node /usr/local/bin/node
			COPY npm /usr/local/lib/node_modules/npm
			RUN ln -s ../lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm
			WORKDIR /app
			COPY left-1.0.0.tgz .
			RUN npm init -y && npm install --offline --no-audit ./left-1.0.0.tgz
			RUN ./node_modules/.bin/left | tee said && test -s node_modules/left/installed
		EOF
		whittle build -t app .`)
	if !strings.Contains(said, "left is here") {
		t.Errorf("said %s", said)
	}
}
