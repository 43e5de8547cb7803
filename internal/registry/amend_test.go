package registry

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image/manifest"
)

// about is an artifact about subject that says text.
func about(t *testing.T, subject manifest.Descriptor, text string) *Documents {
	t.Helper()
	layer := describe([]byte(text))
	layer.MediaType = "text/plain"
	config := describe([]byte("{}"))
	config.MediaType = manifest.EmptyConfig
	raw, d, err := manifest.About("application/x.test", config, []manifest.Descriptor{layer}, &subject)
	if err != nil {
		t.Fatal(err)
	}
	return &Documents{Blobs: [][]byte{[]byte("{}"), []byte(text)}, Raw: raw, Descriptor: d}
}

// referrers are the digests of what refers to d, as go-containerregistry finds them: by the
// API of referrers, or by the tag.
func referrers(t *testing.T, ref Ref, d digest.Digest) map[string]string {
	t.Helper()
	at, err := name.NewDigest(ref.repository()+"@"+d.String(), name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	index, err := remote.Referrers(at)
	if err != nil {
		t.Fatal(err)
	}
	list, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, m := range list.Manifests {
		if _, twice := found[m.Digest.String()]; twice {
			t.Errorf("%s is there twice", m.Digest)
		}
		found[m.Digest.String()] = m.ArtifactType
	}
	return found
}

func TestWhatHasASubjectIsListedAmongItsReferrers(t *testing.T) {
	for kind, host := range map[string]func(t *testing.T) string{
		"by the API": func(t *testing.T) string {
			f := serve(t)
			f.inject(func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/sha256-") {
					t.Error("a list is written where the registry has its own")
				}
				w.Header().Set("OCI-Subject", "sha256:said") // which this one leaves out
				return false
			})
			return f.host()
		},
		"by the tag": distribution,
	} {
		t.Run(kind, func(t *testing.T) {
			ref := Ref{Domain: host(t), Path: "app", Tag: "1"}
			subject, err := client().Push(t.Context(), paint(t, "amd64", 100).upload(ref))
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]string{}
			var docs []*Documents
			for i := range 4 {
				docs = append(docs, about(t, subject.Bare(), fmt.Sprint("document ", i)))
				want[docs[i].Descriptor.Digest.String()] = "application/x.test"
				if kind == "by the API" { // where config.mediaType counts
					want[docs[i].Descriptor.Digest.String()] = manifest.EmptyConfig
				}
			}
			var wg sync.WaitGroup // from clients of their own, as from other machines
			put := func(docs *Documents) {
				if err := client().PutDocuments(t.Context(), Ref{Domain: ref.Domain, Path: ref.Path}, docs); err != nil {
					t.Error(err)
				}
			}
			for _, d := range docs {
				wg.Go(func() { put(d) })
			}
			wg.Wait()
			put(docs[0]) // once more is no more
			if got := referrers(t, ref, subject.Digest); !maps.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

// Whoever read before somebody else wrote, and writes after, takes that one's part away:
// which that one then sees.
func TestWhatOthersOverwriteIsWrittenAgain(t *testing.T) {
	f := serve(t)
	ref := f.ref("app", "list")
	subject := describe([]byte("a subject"))
	subject.MediaType = manifest.OCIManifest
	mine, other := about(t, subject, "mine"), about(t, subject, "other")
	ref.Tag = referrersTag(subject.Digest)
	over, err := referrer{Descriptor: other.Descriptor}.to(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := client().open(t.Context(), ref, transport.PushScope)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.putDocuments(t.Context(), Ref{}, other); err != nil {
		t.Fatal(err)
	}
	gets := 0
	f.inject(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, "/manifests/"+ref.Tag) {
			return false
		}
		if gets++; gets == 2 { // before it is looked at again
			if _, err := s.putDocuments(t.Context(), ref, over); err != nil {
				t.Error(err)
			}
		}
		return false
	})
	if err := client().PutDocuments(t.Context(), Ref{Domain: ref.Domain, Path: ref.Path}, mine); err != nil {
		t.Fatal(err)
	}
	_, there, err := s.there(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	l := there.Index.Manifests
	if len(l) != 2 || l[0].Digest != other.Descriptor.Digest || l[1].Digest != mine.Descriptor.Digest {
		t.Errorf("the list has %+v", l)
	}
}

func TestAListOfReferrersKeepsWhatOthersWroteThere(t *testing.T) {
	const list = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","annotations":{"a":"b"},"x":1,"manifests":[` +
		`{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":7,"data":"e30=","artifactType":"y"}]}`
	there, err := manifest.Parse([]byte(list), "")
	if err != nil {
		t.Fatal(err)
	}
	docs, err := referrer{Descriptor: describe([]byte("z")), ArtifactType: "t"}.to([]byte(list), there)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(docs.Raw, &got); err != nil {
		t.Fatal(err)
	}
	manifests := got["manifests"].([]any)
	if first := manifests[0].(map[string]any); len(manifests) != 2 || got["x"] != 1.0 || got["annotations"] == nil || first["data"] != "e30=" {
		t.Errorf("%s", docs.Raw)
	}
	if _, err := (referrer{}).to(nil, &manifest.Parsed{Manifest: &manifest.Manifest{}}); err == nil {
		t.Error("an image is taken for a list")
	}
	full := &manifest.Parsed{Index: &manifest.Index{Manifests: make([]manifest.Descriptor, manifest.MaxEntries)}}
	if _, err := (referrer{Descriptor: describe([]byte("z"))}).to([]byte("{}"), full); err == nil {
		t.Error("a list becomes longer than whittle reads")
	}
}
