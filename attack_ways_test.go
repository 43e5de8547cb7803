package whittle_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/whittle-build/whittle"
	"github.com/whittle-build/whittle/internal/progress"
)

// hostileTar is a root file system with one entry of the attacker's.
func hostileTar(t *testing.T, evil *tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []*tar.Header{{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755}, {Name: "d/plain", Typeflag: tar.TypeReg, Mode: 0o644}, evil} {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// hostileImage is the config and the layer of an image.
func hostileImage(fs []byte) (config []byte) {
	return fmt.Appendf(nil, `{"architecture":%q,"os":"linux","config":{"Cmd":["/x"]},"rootfs":{"type":"layers","diff_ids":["sha256:%x"]}}`, "amd64", sha256.Sum256(fs))
}

// ways are all the ways by which the tar of a file system gets into a store;
// each makes the image "evil" of it, or fails.
func ways(h *workshop) map[string]func(t *testing.T, fs []byte) error {
	return map[string]func(t *testing.T, fs []byte) error{
		"import": func(t *testing.T, fs []byte) error {
			_, err := h.Import(t.Context(), bytes.NewReader(fs), "evil", []string{`CMD ["/x"]`}, "")
			return err
		},
		"load": func(t *testing.T, fs []byte) error {
			_, err := h.Load(t.Context(), bytes.NewReader(tarOf(t, map[string]string{
				"manifest.json": `[{"Config":"c.json","RepoTags":["evil:latest"],"Layers":["l.tar"]}]`,
				"c.json":        string(hostileImage(fs)), "l.tar": string(fs),
			})))
			return err
		},
		"pull": func(t *testing.T, fs []byte) error {
			server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
			defer server.Close()
			name := strings.TrimPrefix(server.URL, "http://") + "/evil:1"
			offer(t, server.URL+"/v2/evil", fs)
			if _, err := h.Pull(t.Context(), name, "linux/amd64", progress.Discard{}); err != nil {
				return err
			}
			return h.Tag(t.Context(), name, "evil")
		},
		"ADD": func(t *testing.T, fs []byte) error {
			dir := folder(t, map[string]string{"Dockerfile": "FROM scratch\nADD fs.tar /\nCMD [\"/x\"]\n", "fs.tar": string(fs)})
			_, err := h.Build(t.Context(), whittle.Request{Context: dir, Tags: []string{"evil"}})
			return err
		},
		"context": func(t *testing.T, fs []byte) error {
			text := "FROM scratch\nCOPY . /\nCMD [\"/x\"]\n"
			name := filepath.Join(t.TempDir(), "Dockerfile")
			if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			_, err := h.Build(t.Context(), whittle.Request{Context: "-", In: bytes.NewReader(fs), File: name, Tags: []string{"evil"}})
			return err
		},
	}
}

// offer puts an image of one layer into a registry, as its owner may.
func offer(t *testing.T, repo string, fs []byte) {
	t.Helper()
	send := func(method, url, kind string, body []byte) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", kind)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if res.StatusCode/100 != 2 {
			t.Fatalf("%s %s: %s", method, url, res.Status)
		}
	}
	config := hostileImage(fs)
	var parts []string
	for _, b := range []struct {
		kind string
		body []byte
	}{{"application/vnd.oci.image.config.v1+json", config}, {"application/vnd.oci.image.layer.v1.tar", fs}} {
		send(http.MethodPost, fmt.Sprintf("%s/blobs/uploads/?digest=sha256:%x", repo, sha256.Sum256(b.body)), "application/octet-stream", b.body)
		parts = append(parts, fmt.Sprintf(`{"mediaType":%q,"digest":"sha256:%x","size":%d}`, b.kind, sha256.Sum256(b.body), len(b.body)))
	}
	const kind = "application/vnd.oci.image.manifest.v1+json"
	send(http.MethodPut, repo+"/manifests/1", kind, fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[%s]}`, kind, parts[0], parts[1]))
}

// Attack 35: a raw 0/0 character device, which means a deletion once a layer is
// an overlay's. What refuses it is layer's reader of tars, which every way but
// two goes through: ADD and contexts go through copying's rules.
func TestAttack35_ADeviceThatMeansDeletionIsRefusedOnEveryWayIn(t *testing.T) {
	h := newWorkshop(t, "")
	for name, in := range ways(h) {
		t.Run(name, func(t *testing.T) {
			err := in(t, hostileTar(t, &tar.Header{Name: "d/evil", Typeflag: tar.TypeChar, Mode: 0o666}))
			if err == nil || !strings.Contains(err.Error(), "evil") {
				t.Errorf("error %v, want one that names the device", err)
			}
			if s, err := h.Image("evil"); err == nil {
				t.Errorf("there is an image %s", s.Image.ID.Short())
			}
		})
	}
}

// Attack 36: attributes by which overlayfs is steered. They are dropped where
// tars are read, and where copies are planned.
func TestAttack36_AttributesThatSteerOverlayfsAreDroppedOnEveryWayIn(t *testing.T) {
	everyProvider(t, func(t *testing.T, h *workshop) {
		h.base("base")
		records := map[string]string{"SCHILY.xattr.user.fine": "1"}
		for _, n := range []string{"metacopy", "redirect", "opaque", "whiteout", "origin"} {
			records["SCHILY.xattr.trusted.overlay."+n] = "y"
			records["SCHILY.xattr.user.overlay."+n] = "/etc/shadow"
		}
		for name, in := range ways(h) {
			t.Run(name, func(t *testing.T) {
				evil := &tar.Header{Name: "d/evil", Typeflag: tar.TypeReg, Mode: 0o644, PAXRecords: records}
				if err := in(t, hostileTar(t, evil)); err != nil {
					t.Fatal(err)
				}
				// A pulled layer stays what its digest says; what is made of it does not.
				h.mustBuild("FROM scratch\nCOPY --from=evil /d /d\n", tags("copied"))
				var out bytes.Buffer
				if err := h.Save(t.Context(), &out, []string{"copied"}, "docker", whittle.Compression{Format: "uncompressed"}); err != nil {
					t.Fatal(err)
				}
				if got := attributesOf(t, out.Bytes()); strings.Contains(got, "overlay") || !strings.Contains(got, "user.fine:1") {
					t.Errorf("the copy has %s", got)
				}
				// And where the layer is mounted, the files are there and can be read.
				h.mustBuild(`FROM base
RUN --mount=type=bind,from=evil,target=/m cat /m/d/evil /m/d/plain && test "$(echo /m/d/*)" = "/m/d/evil /m/d/plain"
`, func(r *whittle.Request) { r.NoCache = true })
				if _, err := h.RemoveImage("evil", true); err != nil {
					t.Error(err)
				}
			})
		}
	})
}

// attributesOf lists the files of an archive's layers with their extended
// attributes.
func attributesOf(t *testing.T, archive []byte) string {
	t.Helper()
	var all strings.Builder
	for outer := tar.NewReader(bytes.NewReader(archive)); ; {
		_, err := outer.Next()
		if err == io.EOF {
			return all.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		for inner := tar.NewReader(outer); ; {
			h, err := inner.Next()
			if err != nil { // its end, or no tar
				break
			}
			fmt.Fprintf(&all, "%s: %v\n", h.Name, h.PAXRecords)
		}
	}
}
