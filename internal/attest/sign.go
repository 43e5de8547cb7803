package attest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/whittle-build/whittle/internal/digest"
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

// Sign returns the signature over b, in base64: each time the same (RFC 6979).
func (k *Key) Sign(b []byte) (string, error) {
	sum := sha256.Sum256(b)
	sig, err := k.private.Sign(nil, sum[:], crypto.SHA256)
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
