package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/whittle-build/whittle/internal/progress"
	"github.com/whittle-build/whittle/internal/retry"
)

// Causes that callers tell apart with errors.Is.
var (
	ErrNotFound    = errors.New("not in the registry")
	ErrDenied      = errors.New("access denied")
	ErrUnreachable = errors.New("registry unreachable")
)

// Error says what about a reference went wrong, and in its hint the way out.
type Error struct {
	Ref   string
	Msg   string
	Way   string
	Cause error // one of the causes above, or nil
	Err   error // what was seen, for the curious; may be nil
}

func (e *Error) Error() string {
	s := e.Ref + ": " + e.Msg
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Hint returns the way out; it may be empty.
func (e *Error) Hint() string { return e.Way }

func (e *Error) Unwrap() []error {
	var out []error
	for _, err := range []error{e.Cause, e.Err} {
		if err != nil {
			out = append(out, err)
		}
	}
	return out
}

// bringIn is the way out of all trouble with a registry.
const bringIn = "an image can also be brought in without a registry: " +
	"whittle load < ARCHIVE (of docker save), or whittle import ROOTFS.tar NAME"

// explain turns what went wrong into what it means for ref; keys is the way
// out when it is about credentials.
func explain(ref Ref, err error, keys string) error {
	var known *Error
	if err == nil || errors.As(err, &known) || errors.Is(err, context.Canceled) {
		return err
	}
	var cert *tls.CertificateVerificationError
	if errors.As(err, &cert) {
		return untrusted(ref, root(err))
	}
	if isAboutOurs(err) {
		return unshown(ref, &remark{root(err)})
	}
	var status *transport.Error
	if errors.As(err, &status) {
		e := explainStatus(ref, status, keys)
		var long *retry.TooLong
		if errors.As(err, &long) {
			e.Msg += fmt.Sprintf(", and asks to be left alone for %v", long.Asked)
		}
		return e
	}
	if isUnreachable(err) {
		return &Error{
			Ref: ref.String(), Msg: "registry " + ref.Domain + " cannot be reached",
			Way:   offline(ref) + bringIn,
			Cause: ErrUnreachable, Err: root(err),
		}
	}
	return fmt.Errorf("%s: %w", ref, err)
}

// untrusted is a registry whose certificate nobody here knows.
func untrusted(ref Ref, err error) error {
	return &Error{Ref: ref.String(), Msg: "registry " + ref.Domain + " shows a certificate that is not trusted here", Err: err,
		Way: fmt.Sprintf(`name the one that signed it in whittle.toml: [registry.%q] ca = ["FILE"]; or insecure = true, which trusts any`, ref.Domain)}
}

// unshown is a registry that is not shown the certificate that it wants to see.
func unshown(ref Ref, err error) error {
	e := &Error{Ref: ref.String(), Msg: "registry " + ref.Domain + " wants to be shown a certificate, or another one", Err: err,
		Way: fmt.Sprintf(`name the one that it knows in whittle.toml: [[registry.%q.keypair]] cert = "FILE" and key = "FILE"`, ref.Domain)}
	if strings.Contains(err.Error(), noHandshake) {
		e.Msg = "registry " + ref.Domain + " breaks TLS off, as one does that wants to be shown a certificate"
	}
	return e
}

// noHandshake is what servers of TLS 1.2 say to whoever shows no certificate, among others.
const noHandshake = "handshake failure"

// isAboutOurs reports what a server says of the certificate that it is, or is not, shown: in
// an alert while the connection is made, or as nginx does with a page.
func isAboutOurs(err error) bool {
	var alert *net.OpError
	if errors.As(err, &alert) && alert.Op == "remote error" {
		said := alert.Error()
		return strings.Contains(said, "certificate") || strings.Contains(said, noHandshake)
	}
	var status *transport.Error
	if !errors.As(err, &status) || status.StatusCode != http.StatusBadRequest {
		return false
	}
	said := status.Error()
	return strings.Contains(said, "No required SSL certificate was sent") || strings.Contains(said, "The SSL certificate error")
}

// offline asks the first question about a registry that does not answer.
func offline(ref Ref) string {
	if isLoopback(ref.Domain) {
		return "is a registry running there? "
	}
	return "is this machine offline? "
}

func explainStatus(ref Ref, err *transport.Error, keys string) *Error {
	e := &Error{Ref: ref.String(), Err: &remark{err}}
	switch err.StatusCode {
	case http.StatusNotFound:
		e.Msg, e.Cause, e.Err = "not found in registry "+ref.Domain, ErrNotFound, nil
		e.Way = bringIn
	case http.StatusUnauthorized, http.StatusForbidden:
		e.Cause = ErrDenied
		e.Msg = "registry " + ref.Domain + " denies access, or has no such image"
		e.Way = keys
	case http.StatusTooManyRequests:
		e.Msg = "registry " + ref.Domain + " limits how often it is asked"
		e.Way = "wait, or log in, which raises the limit: " + keys
	default:
		e.Msg = fmt.Sprintf("registry %s answers %d", ref.Domain, err.StatusCode)
	}
	return e
}

// remark is an error that a registry sent: one short line of it. It may be a
// whole page, and what a terminal obeys.
type remark struct{ err error }

func (a *remark) Error() string {
	return progress.Brief(strings.Join(strings.Fields(progress.Clean(a.err.Error())), " "))
}

func (a *remark) Unwrap() error { return a.err }

// root drops the HTTP client's frames, whose addresses may carry a token.
func root(err error) error {
	for {
		var u *url.Error
		if !errors.As(err, &u) {
			return err
		}
		err = u.Err
	}
}

// isUnreachable reports errors before any answer.
func isUnreachable(err error) bool {
	var dns *net.DNSError
	var op *net.OpError
	return errors.As(err, &dns) || errors.As(err, &op) && op.Op == "dial" ||
		errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EHOSTUNREACH)
}

// isFleeting reports errors after which the same request may work.
func isFleeting(err error) bool {
	var status *transport.Error
	if errors.As(err, &status) {
		switch status.StatusCode {
		case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
			http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			return true
		}
		return false
	}
	var fatal *fatalError
	var cert *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	if errors.As(err, &fatal) || errors.As(err, &cert) || errors.As(err, &record) || errors.Is(err, context.Canceled) || isUnreachable(err) || isAboutOurs(err) {
		return false
	}
	return true
}

// fatalError is an answer that asking again does not change.
type fatalError struct{ err error }

func (e *fatalError) Error() string { return e.err.Error() }
func (e *fatalError) Unwrap() error { return e.err }

func fatalf(format string, args ...any) error {
	return &fatalError{fmt.Errorf(format, args...)}
}
