package attest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
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
		doc, err := k.Signature(image, "example.com/app")
		if err != nil {
			t.Fatal(err)
		}
		p, err := manifest.Parse(doc.Data, "")
		if err != nil || p.Manifest.Subject == nil || p.Manifest.Subject.Digest != image.Digest {
			t.Fatalf("%s, %v", doc.Data, err)
		}
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
