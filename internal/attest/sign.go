package attest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image/manifest"
)

const (
	simpleSigning       = "application/vnd.dev.cosign.simplesigning.v1+json"
	signatureAnnotation = "dev.cosignproject.cosign/signature"
)

// Key signs digests of manifests.
type Key struct{ private *ecdsa.PrivateKey }

// ErrKey is the cause of errors about keys that cannot be used.
var ErrKey = errors.New("want the PEM of an ECDSA key on P-256 that has no password")

// ParseKey reads a private key in PEM: SEC 1 or PKCS #8, without a password.
func ParseKey(text []byte) (*Key, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, ErrKey
	}
	if strings.Contains(block.Type, "ENCRYPTED") || block.Headers["DEK-Info"] != "" {
		return nil, fmt.Errorf("%q: %w", block.Type, ErrKey)
	}
	var key any
	var err error
	if block.Type == "EC PRIVATE KEY" {
		key, err = x509.ParseECPrivateKey(block.Bytes)
	} else {
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	}
	private, ok := key.(*ecdsa.PrivateKey)
	if err != nil || !ok || private.Curve != elliptic.P256() {
		return nil, ErrKey
	}
	return &Key{private}, nil
}

// Signature is the manifest of a signature over the manifest of, which is in the repository
// called name; Tag is the tag at which cosign looks for it, and its subject lets registries
// list it among the referrers of what is signed.
func (k *Key) Signature(of manifest.Descriptor, name string) (Document, error) {
	payload, err := json.Marshal(map[string]any{
		"critical": map[string]any{
			"identity": map[string]string{"docker-reference": name},
			"image":    map[string]string{"docker-manifest-digest": of.Digest.String()},
			"type":     "cosign container image signature",
		},
		"optional": nil,
	})
	if err != nil {
		return Document{}, err
	}
	sum := sha256.Sum256(payload)
	sig, err := k.private.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		return Document{}, fmt.Errorf("sign: %w", err)
	}
	l := blob(simpleSigning, payload)
	l.Annotations = map[string]string{signatureAnnotation: base64.StdEncoding.EncodeToString(sig)}
	subject := of.Bare()
	return compose([]Blob{l}, "", &subject)
}

// SignatureTag is the tag of signatures over the manifest d.
func SignatureTag(d digest.Digest) string { return "sha256-" + d.Hex() + ".sig" }
