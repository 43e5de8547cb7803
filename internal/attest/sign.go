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

// Sign returns the signature over b, in base64.
func (k *Key) Sign(b []byte) (string, error) {
	sum := sha256.Sum256(b)
	sig, err := k.private.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		return "", fmt.Errorf("sign: %w", err)
	}
	return base64.StdEncoding.EncodeToString(sig), nil
}

// Public returns the key that verifies what k signs.
func (k *Key) Public() *PublicKey { return &PublicKey{&k.private.PublicKey} }

// PublicKey verifies signatures.
type PublicKey struct{ key *ecdsa.PublicKey }

// ErrPublicKey is the cause of errors about keys that verify nothing.
var ErrPublicKey = errors.New("want the PEM of a public ECDSA key on P-256")

// ParsePublicKey reads a public key in PEM.
func ParsePublicKey(text []byte) (*PublicKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, ErrPublicKey
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	public, ok := key.(*ecdsa.PublicKey)
	if err != nil || !ok || public.Curve != elliptic.P256() {
		return nil, ErrPublicKey
	}
	return &PublicKey{public}, nil
}

// ID tells keys apart.
func (k *PublicKey) ID() digest.Digest {
	der, err := x509.MarshalPKIXPublicKey(k.key)
	if err != nil {
		return digest.Digest{} // of P-256 there is none that cannot be written
	}
	return digest.Of(der)
}

// Verify says whether signature, in base64, is k's over b.
func (k *PublicKey) Verify(b []byte, signature string) bool {
	sig, err := base64.StdEncoding.DecodeString(signature)
	sum := sha256.Sum256(b)
	return err == nil && ecdsa.VerifyASN1(k.key, sum[:], sig)
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
	sig, err := k.Sign(payload)
	if err != nil {
		return Document{}, err
	}
	l := blob(simpleSigning, payload)
	l.Annotations = map[string]string{signatureAnnotation: sig}
	subject := of.Bare()
	return compose([]Blob{l}, "", &subject)
}

// SignatureTag is the tag of signatures over the manifest d.
func SignatureTag(d digest.Digest) string { return "sha256-" + d.Hex() + ".sig" }
