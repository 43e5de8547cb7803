package attest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image/manifest"
)

var image = manifest.Descriptor{MediaType: manifest.OCIManifest, Digest: digest.Of([]byte("an image")), Size: 8}

func TestAnAttestationNamesTheImageThatItIsAbout(t *testing.T) {
	doc, err := Attestation(image, []Statement{About(image.Digest, []string{"pkg:docker/app@1"}, SPDXType, map[string]string{"a": "b"})})
	if err != nil {
		t.Fatal(err)
	}
	if doc.Annotations["vnd.docker.reference.digest"] != image.Digest.String() || doc.Annotations["vnd.docker.reference.type"] != "attestation-manifest" || doc.Platform.OS != "unknown" {
		t.Errorf("its descriptor is %+v", doc.Descriptor)
	}
	p, err := manifest.Parse(doc.Data, doc.MediaType)
	if err != nil || len(p.Manifest.Layers) != 1 || p.Manifest.Layers[0].Annotations["in-toto.io/predicate-type"] != SPDXType {
		t.Fatalf("%s, %v", doc.Data, err)
	}
	// What registries list by, as BuildKit's exporter writes it since it has OCI artifacts.
	if m := p.Manifest; m.ArtifactType != "application/vnd.docker.attestation.manifest.v1+json" || m.Subject == nil || m.Subject.Digest != image.Digest || m.Config.MediaType != "application/vnd.oci.empty.v1+json" {
		t.Errorf("not an artifact about the image: %s", doc.Data)
	}
	for i, d := range append([]manifest.Descriptor{p.Manifest.Config}, p.Manifest.Layers...) {
		if doc.Parts[i].Digest != d.Digest || digest.Of(doc.Parts[i].Data) != d.Digest || int64(len(doc.Parts[i].Data)) != d.Size {
			t.Errorf("part %d is %s, the manifest names %s", i, doc.Parts[i].Digest, d.Digest)
		}
	}
	var s Statement
	if err := json.Unmarshal(doc.Parts[1].Data, &s); err != nil || s.Subject[0].Digest["sha256"] != image.Digest.Hex() {
		t.Errorf("%s, %v", doc.Parts[1].Data, err)
	}
}

func keyFile(t *testing.T, kind string, key any) []byte {
	t.Helper()
	var der []byte
	var err error
	if kind == "EC PRIVATE KEY" {
		der, err = x509.MarshalECPrivateKey(key.(*ecdsa.PrivateKey))
	} else {
		der, err = x509.MarshalPKCS8PrivateKey(key)
	}
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func TestOpenSSLVerifiesASignature(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skipf("needs openssl: %v", err)
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"EC PRIVATE KEY", "PRIVATE KEY"} {
		k, err := ParseKey(keyFile(t, kind, private))
		if err != nil {
			t.Fatal(err)
		}
		doc, p := tagged(t, k, nil)
		sig, err := base64.StdEncoding.DecodeString(p.Manifest.Layers[0].Annotations["dev.cosignproject.cosign/signature"])
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		for name, b := range map[string][]byte{"payload": doc.Parts[1].Data, "sig": sig, "key": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		cmd := exec.Command(openssl, "dgst", "-sha256", "-verify", "key", "-signature", "sig", "payload")
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", kind, err, out)
		}
		var payload struct {
			Critical struct {
				Image map[string]string
			}
		}
		if err := json.Unmarshal(doc.Parts[1].Data, &payload); err != nil || payload.Critical.Image["docker-manifest-digest"] != image.Digest.String() {
			t.Errorf("%s, %v", doc.Parts[1].Data, err)
		}
	}
}

// tagged is the manifest of signatures when k's comes to those there.
func tagged(t *testing.T, k *Key, there *manifest.Parsed) (Document, *manifest.Parsed) {
	t.Helper()
	s, err := k.Signature(image, "example.com/app")
	if err != nil {
		t.Fatal(err)
	}
	all, _, err := s.Beside(there)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := s.Tagged(all)
	if err != nil {
		t.Fatal(err)
	}
	p, err := manifest.Parse(doc.Data, "")
	if err != nil {
		t.Fatal(err)
	}
	return doc, p
}

func newKey(t *testing.T) *Key {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &Key{private}
}

func TestSignaturesOfSeveralKeysStandSideBySide(t *testing.T) {
	a, b := newKey(t), newKey(t)
	doc, one := tagged(t, a, nil)
	_, two := tagged(t, b, one)
	if l := two.Manifest.Layers; len(l) != 2 || l[0].Annotations[signatureAnnotation] != one.Manifest.Layers[0].Annotations[signatureAnnotation] {
		t.Fatalf("after a second key: %+v", l)
	}
	for i, k := range []*Key{a, b} {
		if !k.Public().Verify(doc.Parts[1].Data, two.Manifest.Layers[i].Annotations[signatureAnnotation]) {
			t.Errorf("signature %d is not its key's", i)
		}
	}
	s, err := a.Signature(image, "example.com/app")
	if err != nil {
		t.Fatal(err)
	}
	all, added, err := s.Beside(two)
	if err != nil || added || len(all) != 2 {
		t.Errorf("the first key again: %+v, added %v, %v", all, added, err)
	}
	// Another signature of its own, as one with random numbers is, gives way.
	sum := sha256.Sum256(doc.Parts[1].Data)
	random, err := a.private.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	two.Manifest.Layers[0].Annotations = map[string]string{signatureAnnotation: base64.StdEncoding.EncodeToString(random)}
	if all, added, err = s.Beside(two); err != nil || !added || len(all) != 2 {
		t.Errorf("in place of its own: %+v, added %v, %v", all, added, err)
	}

	ref, err := s.Referrer(all)
	if err != nil {
		t.Fatal(err)
	}
	p, err := manifest.Parse(ref.Data, "")
	if err != nil {
		t.Fatal(err)
	}
	const cosigns = "application/vnd.dev.cosign.artifact.sig.v1+json"
	if m := p.Manifest; m.Subject == nil || m.Subject.Digest != image.Digest || m.ArtifactType != cosigns || m.Config.MediaType != cosigns || len(m.Layers) != 2 {
		t.Errorf("%s", ref.Data)
	}
}

func TestNothingElseIsTakenForSignatures(t *testing.T) {
	s, err := newKey(t).Signature(image, "example.com/app")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []*manifest.Parsed{
		{Index: &manifest.Index{}},
		{Manifest: &manifest.Manifest{Layers: []manifest.Descriptor{{MediaType: manifest.OCILayer}}}},
	} {
		if all, _, err := s.Beside(p); err == nil {
			t.Errorf("%+v: %v", p, all)
		}
	}
}

func TestKeysThatCannotSign(t *testing.T) {
	other, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"nothing":         nil,
		"no PEM":          []byte("key"),
		"another curve":   keyFile(t, "EC PRIVATE KEY", other),
		"RSA":             keyFile(t, "PRIVATE KEY", rsaKey),
		"with a password": pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED SIGSTORE PRIVATE KEY", Bytes: []byte("x")}),
		"a public key":    pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")}),
	} {
		if _, err := ParseKey(text); !errors.Is(err, ErrKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
