package fetch

import (
	"context"
	"crypto/sha512"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/whittle-build/whittle/internal/address"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/store"
)

// Download says what to download.
type Download struct {
	URL string
	// Checksum is what address.CheckChecksum takes; "" takes whatever comes.
	Checksum string
	Progress Progress
}

// defaultMax is the largest file that a layer holds.
const defaultMax = 1 << 40

// cacheKind is the kind of the store's cache files that keep notes.
const cacheKind = "download"

// note is what is kept of a download beside its bytes.
type note struct {
	URL      string        `json:"url"` // without credentials
	ETag     string        `json:"etag,omitempty"`
	Modified string        `json:"modified,omitempty"` // Last-Modified as the server says it
	Said     string        `json:"said,omitempty"`
	Digest   digest.Digest `json:"digest"`
	Size     int64         `json:"size"`
}

// HTTP downloads a file, or finds that the one in the store is still what the
// server has. Where d names a checksum and the store has that file, no server
// is asked.
func (c *Client) HTTP(ctx context.Context, d Download) (*File, error) {
	return once(ctx, c, d.name(), func() (*File, error) { return c.download(ctx, d) })
}

func (d *Download) name() string { return "http " + d.Checksum + " " + d.URL }

// Digest is that of what HTTP returned for d, and whether it did: nobody is asked.
func (c *Client) Digest(d Download) (digest.Digest, bool) {
	f, ok := c.landed(d.name()).(*File)
	if !ok || f == nil {
		return digest.Digest{}, false
	}
	return f.Digest, true
}

// download is one call of HTTP. Its error never has the URL as it was given.
func (c *Client) download(ctx context.Context, d Download) (*File, error) {
	u, err := url.Parse(d.URL)
	if err != nil {
		var bad *url.Error
		if errors.As(err, &bad) {
			err = bad.Err
		}
		return nil, &Error{What: address.Redact(d.URL), Msg: "not a URL", Way: "write it as a browser shows it: https://example.com/file", Err: err}
	}
	plain := *u
	plain.User, plain.Fragment = nil, ""
	name := plain.String()
	if d.Checksum != "" {
		for _, by := range []string{d.Checksum, name} {
			if n := c.known(by, d.Checksum); n != nil {
				return n.file(c.Store), c.keep(n, d.Checksum)
			}
		}
	}
	lock, err := c.lock(ctx, name)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	var f *File
	err = c.retry(ctx, func() error {
		f, err = c.get(ctx, u, name, d)
		return err
	})
	if err != nil {
		return nil, c.explain(ctx, u, err)
	}
	return f, nil
}

// known returns the note called name if the store has its file and that has the
// checksum, which is of SHA-256 or the name itself.
func (c *Client) known(name, checksum string) *note {
	n := c.note(name)
	if n == nil || checksum != name && checksum != n.Digest.String() {
		return nil
	}
	return n
}

// note returns the note called name, if the store has the file that it tells
// of.
func (c *Client) note(name string) *note {
	path := c.Store.CacheFile(cacheKind, name)
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	// What is used is pruned last; that it cannot be said is no trouble.
	if fi, err := os.Stat(path); err == nil && c.now().Sub(fi.ModTime()) > time.Hour {
		_ = os.Chtimes(path, c.now(), c.now())
	}
	n := &note{}
	if json.Unmarshal(b, n) != nil || n.Digest.IsZero() {
		return nil
	}
	if size, err := c.Store.StatBlob(n.Digest); err != nil || size != n.Size {
		return nil
	}
	return n
}

func (n *note) file(s *store.Store) *File {
	f := &File{Said: n.Said, Digest: n.Digest, Size: n.Size, store: s}
	if t, err := http.ParseTime(n.Modified); err == nil {
		f.Modified = t.UTC()
	}
	return f
}

// keep writes the note under its names.
func (c *Client) keep(n *note, names ...string) error {
	b, err := json.Marshal(n)
	if err != nil {
		return err
	}
	for _, name := range names {
		if name == "" {
			continue
		}
		if err := c.Store.PutCacheFile(cacheKind, name, b); err != nil {
			return err
		}
	}
	return nil
}

// get makes one request and takes its answer.
func (c *Client) get(ctx context.Context, u *url.URL, name string, d Download) (*File, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	if err := c.authorize(req); err != nil {
		return nil, err
	}
	have := c.note(name)
	if have != nil {
		have.ask(req)
	}
	resp, err := c.do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if have != nil && (resp.StatusCode == http.StatusNotModified || have.unchanged(resp)) {
		f := have.file(c.Store)
		if err := checkDigest(d.Checksum, f); err != nil {
			return nil, err
		}
		return f, c.keep(have, d.Checksum)
	}
	if resp.StatusCode == http.StatusNotModified { // since when? nothing was said of that
		return nil, &statusError{code: resp.StatusCode}
	}
	return c.take(resp, cancel, name, d)
}

// ask makes the request one for something that has changed.
func (n *note) ask(req *http.Request) {
	switch {
	case n.ETag != "":
		req.Header.Set("If-None-Match", n.ETag)
	case n.Modified != "":
		req.Header.Set("If-Modified-Since", n.Modified)
	}
}

// unchanged is for servers that send the file again although they were asked
// for changes only: the rest of the answer is not read.
func (n *note) unchanged(resp *http.Response) bool {
	weak := func(tag string) string { return strings.TrimPrefix(tag, "W/") }
	return n.ETag != "" && resp.StatusCode == http.StatusOK && weak(resp.Header.Get("ETag")) == weak(n.ETag)
}

// take stores the body of an answer.
func (c *Client) take(resp *http.Response, cancel context.CancelCauseFunc, name string, d Download) (*File, error) {
	most := c.MaxBytes
	if most == 0 {
		most = defaultMax
	}
	if resp.ContentLength > most {
		return nil, tooLarge(most)
	}
	body := &transfer{r: resp.Body, total: max(resp.ContentLength, 0), most: most, progress: d.Progress}
	body.watch(c.stall(), cancel)
	defer body.timer.Stop()
	sum := sumOf(d.Checksum)
	var r io.Reader = body
	if sum != nil {
		r = io.TeeReader(body, sum)
	}
	blob, size, err := c.Store.PutBlob(r)
	if body.err != nil {
		return nil, body.err
	}
	if err != nil {
		return nil, err
	}
	n := &note{
		URL: name, ETag: resp.Header.Get("ETag"), Modified: resp.Header.Get("Last-Modified"),
		Said: said(resp), Digest: blob, Size: size,
	}
	f := n.file(c.Store)
	if sum != nil {
		if got := fmt.Sprintf("%s:%x", algorithm(d.Checksum), sum.Sum(nil)); got != d.Checksum {
			return nil, &mismatch{got: got, want: d.Checksum}
		}
	} else if err := checkDigest(d.Checksum, f); err != nil {
		return nil, err
	}
	return f, c.keep(n, name, d.Checksum)
}

func (c *Client) stall() time.Duration {
	if c.Stall > 0 {
		return c.Stall
	}
	return time.Minute
}

// said is the name that the answer gives the file.
func said(resp *http.Response) string {
	_, params, err := mime.ParseMediaType(resp.Header.Get("Content-Disposition"))
	name := params["filename"]
	if err != nil || name == "" || strings.HasSuffix(name, "/") {
		return ""
	}
	return address.SafeName(path.Base(name))
}

// transfer is a body on its way.
type transfer struct {
	r        io.Reader
	n        int64
	total    int64
	most     int64
	progress Progress
	timer    *time.Timer
	wait     time.Duration
	err      error // why it ended early, as an error of the server's
}

// watch calls the request off when nothing arrives for so long.
func (t *transfer) watch(wait time.Duration, cancel context.CancelCauseFunc) {
	t.wait = wait
	t.timer = time.AfterFunc(wait, func() { cancel(&fleeting{error: fmt.Errorf("nothing arrived for %s", wait)}) })
}

func (t *transfer) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	t.timer.Reset(t.wait)
	t.n += int64(n)
	if t.n > t.most {
		t.err = tooLarge(t.most)
		return n, t.err
	}
	if t.progress != nil && n > 0 {
		t.progress(t.n, t.total)
	}
	if err != nil && err != io.EOF {
		t.err = &fleeting{error: broken(err, t.n, t.total)}
		return n, t.err
	}
	return n, err
}

// broken says what a body that ends in the middle of it means.
func broken(err error, n, total int64) error {
	if total > 0 && errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("the connection ended after %d of %d bytes", n, total)
	}
	return fmt.Errorf("after %d bytes: %w", n, err)
}

func tooLarge(most int64) error {
	return &Error{Msg: fmt.Sprintf("more than %d bytes", most), Way: "no layer can hold it: get the part of it that the image needs"}
}

// mismatch is a file that is not the one that was asked for.
type mismatch struct{ got, want string }

func (e *mismatch) Error() string { return fmt.Sprintf("digest mismatch %s: %s", e.got, e.want) }

func checkDigest(want string, f *File) error {
	if want == "" || want == f.Digest.String() {
		return nil
	}
	if algorithm(want) != "sha256" {
		// The bytes are in the store; they were never hashed this way.
		return f.checkOther(want)
	}
	return &mismatch{f.Digest.String(), want}
}

func (f *File) checkOther(want string) error {
	r, err := f.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	h := sumOf(want)
	if _, err := io.Copy(h, r); err != nil {
		return err
	}
	if got := fmt.Sprintf("%s:%x", algorithm(want), h.Sum(nil)); got != want {
		return &mismatch{got, want}
	}
	return nil
}

func algorithm(checksum string) string {
	name, _, _ := strings.Cut(checksum, ":")
	return name
}

// sumOf hashes what the store does not.
func sumOf(checksum string) hash.Hash {
	switch algorithm(checksum) {
	case "sha384":
		return sha512.New384()
	case "sha512":
		return sha512.New()
	}
	return nil
}

// retryAfter is how long the server asks to wait.
func retryAfter(resp *http.Response) time.Duration {
	sec, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	if err != nil || sec < 0 || sec > 3600 {
		return 0
	}
	return time.Duration(sec) * time.Second
}
