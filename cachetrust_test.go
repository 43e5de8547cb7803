package whittle_test

import (
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/whittle-build/whittle"
	"github.com/whittle-build/whittle/internal/cacheplace"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/sharedcache"
)

// A circle are those who trust one key, with a cache that they have written.
type circle struct {
	sign, verify []byte
	cache        whittle.Cache
}

func newCircle(t *testing.T) *circle {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return &circle{
		sign:   pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}),
		verify: pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}),
		cache:  whittle.Cache{Dir: filepath.Join(t.TempDir(), "signed"), Max: true, Mounts: []string{whittle.AllMounts}},
	}
}

// writes adds what the build makes to the cache, and reads has it trust nothing else.
func (c *circle) writes(r *whittle.Request) {
	r.CacheSignKey, r.CacheTo = c.sign, []whittle.Cache{c.cache}
}

func (c *circle) reads(r *whittle.Request) {
	r.CacheVerifyKey, r.CacheFrom = c.verify, []whittle.Cache{c.cache}
}

// exported builds, and reads some of the files of the image.
func (h *workshop) exported(dockerfile, a string, change func(*whittle.Request)) map[string]string {
	h.t.Helper()
	out := h.t.TempDir()
	_, err := h.build(dockerfile, func(r *whittle.Request) {
		if err := os.WriteFile(filepath.Join(r.Context, "a"), []byte(a), 0o644); err != nil {
			h.t.Fatal(err)
		}
		r.Outputs = []whittle.Output{{Type: whittle.LocalOutput, Dest: out}}
		change(r)
	})
	if err != nil {
		h.t.Fatal(err)
	}
	files := map[string]string{}
	for _, name := range []string{"tool", "result"} {
		b, err := os.ReadFile(filepath.Join(out, name))
		if err == nil {
			files[name] = string(b)
		}
	}
	return files
}

// written is an unsigned cache with all that building gives.
func written(t *testing.T, dockerfile, a string) whittle.Cache {
	t.Helper()
	c := whittle.Cache{Dir: filepath.Join(t.TempDir(), "unsigned"), Max: true}
	h := newWorkshop(t, "")
	h.base("base")
	h.exported(dockerfile, a, func(r *whittle.Request) { r.CacheTo = []whittle.Cache{c} })
	return c
}

// facts are what a cache says.
type facts struct {
	Format   int                      `json:"format"`
	Records  []sharedcache.Record     `json:"records"`
	Contents map[string]digest.Digest `json:"contents"`
	Layers   []sharedcache.Layer      `json:"layers"`
}

func read(t *testing.T, c whittle.Cache) (f facts) {
	t.Helper()
	set, err := cacheplace.Folder(c.Dir, "latest").Read(t.Context(), cacheplace.Trust{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := set.Encode()
	if err != nil {
		t.Fatal(err)
	}
	in, err := gzip.NewReader(bytes.NewReader(b))
	if err == nil {
		err = json.NewDecoder(in).Decode(&f)
	}
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// layer is the one that the step with that text made.
func (f *facts) layer(t *testing.T, text string) *sharedcache.Layer {
	t.Helper()
	for _, r := range f.Records {
		for i := range f.Layers {
			if strings.Contains(r.Text, text) && f.Layers[i].ID == r.Layer {
				return &f.Layers[i]
			}
		}
	}
	t.Fatalf("no record of %q", text)
	return nil
}

// tell has an unsigned cache say what is no truth.
func tell(t *testing.T, c whittle.Cache, f facts) {
	t.Helper()
	var b bytes.Buffer
	out := gzip.NewWriter(&b)
	if err := errors.Join(json.NewEncoder(out).Encode(f), out.Close()); err != nil {
		t.Fatal(err)
	}
	set, err := sharedcache.Decode(b.Bytes())
	if err == nil {
		err = cacheplace.Folder(c.Dir, "latest").Add(t.Context(), cacheplace.Trust{}, set, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func from(c whittle.Cache) func(*whittle.Request) {
	return func(r *whittle.Request) { r.CacheFrom = []whittle.Cache{c} }
}

// Who trusts a key believes nobody else what a copy has to copy: neither now, nor when a
// build that trusted everybody has asked before, in the same store. And what is signed is
// not what others said.
func TestWhoTrustsAKeyBelievesNobodyElseWhatIsCopied(t *testing.T) {
	const dockerfile = "FROM base AS src\nCOPY a /a\nFROM base\nCOPY --from=src /a /result\n"
	c := newCircle(t)
	signer := newWorkshop(t, "")
	signer.base("base")
	signer.exported(dockerfile, "vulnerable", c.writes)
	forged := written(t, dockerfile, "mended")
	honest, lie := read(t, c.cache), read(t, forged)
	for _, old := range honest.Contents {
		for name := range lie.Contents {
			lie.Contents[name] = old
		}
	}
	other := whittle.Cache{Dir: filepath.Join(t.TempDir(), "forged")}
	tell(t, other, facts{Format: lie.Format, Contents: lie.Contents})

	victim := newWorkshop(t, "")
	victim.base("base")
	victim.exported(dockerfile, "mended", from(other))
	for _, how := range []func(*whittle.Request){c.reads, func(r *whittle.Request) { c.reads(r); c.writes(r) }} {
		if got := victim.exported(dockerfile, "mended", how)["result"]; got != "mended" {
			t.Errorf("the image has %q", got)
		}
	}
	fresh := newWorkshop(t, "")
	fresh.base("base")
	if got := fresh.exported(dockerfile, "mended", c.reads)["result"]; got != "mended" {
		t.Errorf("on another machine the image has %q", got)
	}
}

// A step that ran on a layer which nobody vouches for has made nothing that who trusts a
// key takes, and neither have its cache mounts: not even when that layer is gone, and not
// when it has come in the place of one that was trusted.
func TestWhoTrustsAKeyTakesNothingThatRanOnWhatOthersSay(t *testing.T) {
	const dockerfile = "FROM base\nRUN echo honest >/tool\nRUN --mount=type=cache,id=m,target=/m cat /tool >>/m/log; cat /m/log >/result\n"
	c := newCircle(t)
	signer := newWorkshop(t, "")
	signer.base("base")
	signer.exported(dockerfile, "", c.writes)
	forged := written(t, "FROM base\nRUN echo EVIL >/tool\n", "")
	evil, lie := read(t, forged), read(t, c.cache)
	bad := evil.layer(t, "EVIL")
	tool := lie.layer(t, "honest")
	id := tool.ID
	tool.DiffID, tool.Blob, tool.Size, tool.Entries = bad.DiffID, bad.Blob, bad.Size, bad.Entries
	tell(t, forged, facts{Format: lie.Format, Records: lie.Records, Layers: lie.Layers, Contents: map[string]digest.Digest{}})

	poison := func(t *testing.T, h *workshop) {
		t.Helper()
		if got := h.exported(dockerfile, "", from(forged)); got["tool"] != "EVIL\n" {
			t.Fatalf("who trusts everybody has %q: nothing is attacked here", got)
		}
	}
	for name, before := range map[string]func(t *testing.T, h *workshop) *workshop{
		"beside it":      func(t *testing.T, h *workshop) *workshop { poison(t, h); return h },
		"and gone since": func(t *testing.T, h *workshop) *workshop { poison(t, h); drop(t, h, id); return h },
		"in its place": func(t *testing.T, h *workshop) *workshop {
			h.exported(dockerfile, "", c.reads)
			drop(t, h, id)
			poison(t, h)
			return h
		},
		"where it was made": func(t *testing.T, _ *workshop) *workshop {
			drop(t, signer, id)
			poison(t, signer)
			return signer
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newWorkshop(t, "")
			h.base("base")
			h = before(t, h)
			for _, how := range []func(*whittle.Request){c.reads, func(r *whittle.Request) { r.CacheVerifyKey = c.verify }} {
				got := h.exported(dockerfile, "", how)
				if got["tool"] != "honest\n" || strings.Contains(got["result"], "EVIL") {
					t.Errorf("who trusts the key has %q", got)
				}
			}
		})
	}
}

func drop(t *testing.T, h *workshop, id digest.Digest) {
	t.Helper()
	if err := whittle.DropLayer(h.Whittle, id); err != nil {
		t.Fatal(err)
	}
	h.open() // what a process has open stays
}

// A cache mount of builds that trust a key stays theirs, and goes with their caches, also
// where builds that trust everybody have one of the same name.
func TestCacheMountsOfWhoTrustsAKeyAreKeptApart(t *testing.T) {
	const dockerfile = "FROM base\nARG N\nRUN --mount=type=cache,id=m,target=/m echo $N >>/m/log; cat /m/log >/result\n"
	with := func(n string, also ...func(*whittle.Request)) func(*whittle.Request) {
		return func(r *whittle.Request) {
			r.Args = map[string]string{"N": n}
			for _, change := range also {
				change(r)
			}
		}
	}
	c := newCircle(t)
	h := newWorkshop(t, "")
	h.base("base")
	h.exported(dockerfile, "", with("stranger"))
	if got := h.exported(dockerfile, "", with("one", c.writes))["result"]; got != "one\n" {
		t.Errorf("the first that trusts the key finds %q", got)
	}
	if got := h.exported(dockerfile, "", with("two", c.writes))["result"]; got != "one\ntwo\n" {
		t.Errorf("the second that trusts the key finds %q", got)
	}
	if got := h.exported(dockerfile, "", with("again"))["result"]; got != "stranger\nagain\n" {
		t.Errorf("who trusts everybody finds %q", got)
	}
	fresh := newWorkshop(t, "")
	fresh.base("base")
	if got := fresh.exported(dockerfile, "", with("three", c.reads))["result"]; got != "one\ntwo\nthree\n" {
		t.Errorf("on another machine who trusts the key finds %q", got)
	}
}
