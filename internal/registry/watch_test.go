package registry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

// unhurried is a reader of an hour's pauses.
type unhurried struct{ io.Reader }

func (u unhurried) Read(p []byte) (int, error) {
	time.Sleep(time.Hour)
	return u.Reader.Read(p)
}

// exchange sends text through a guard and reads the answer, both at the pace of this side.
func exchange(ctx context.Context, method, text string, inner roundTrip) (string, error) {
	g := &guard{inner, nil, time.Minute}
	var body io.Reader
	if text != "" {
		body = unhurried{iotest.OneByteReader(strings.NewReader(text))}
	}
	req, err := http.NewRequestWithContext(ctx, method, "https://example.com/", body)
	if err != nil {
		return "", err
	}
	resp, err := g.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(unhurried{iotest.OneByteReader(resp.Body)})
	return string(b), err
}

func TestWhatTakesLongOnThisSideIsNoStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var conn context.Context
		got, err := exchange(t.Context(), http.MethodPut, "a layer", func(r *http.Request) (*http.Response, error) {
			conn = r.Context()
			b, err := io.ReadAll(r.Body)
			if err != nil || string(b) != "a layer" {
				t.Errorf("%q came, %v", b, err)
			}
			time.Sleep(110 * time.Second) // it may, of what was sent
			resp := answer(r, http.StatusCreated)
			resp.Body = io.NopCloser(strings.NewReader("taken"))
			return resp, conn.Err()
		})
		if err != nil || got != "taken" {
			t.Errorf("%q, %v", got, err)
		}
		if conn.Err() == nil {
			t.Error("the request goes on after its answer was closed")
		}
	})
}

func TestWhatTakesLongOnTheOtherSideIsAStall(t *testing.T) {
	stop := func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	broken := errors.New("broken")
	for name, tt := range map[string]struct {
		method, text string
		inner        roundTrip
		took         time.Duration // without the hours of this side
		err          string
	}{
		"no answer":             {http.MethodGet, "", stop, time.Minute, "nothing came for 1m0s"},
		"no answer to a change": {http.MethodPost, "", stop, 2 * time.Minute, "nothing came for 2m0s"},
		"nothing is taken":      {http.MethodPut, "a", stop, time.Minute, "the registry took nothing for 1m0s"},
		"something is taken": {http.MethodPut, "abc", func(r *http.Request) (*http.Response, error) {
			_, _ = r.Body.Read(make([]byte, 1))
			time.Sleep(59 * time.Second)
			_, _ = r.Body.Read(make([]byte, 1))
			return stop(r)
		}, 119 * time.Second, "the registry took nothing for 1m0s"},
		"no answer to all of it": {http.MethodPut, "a", func(r *http.Request) (*http.Response, error) {
			_, _ = io.Copy(io.Discard, r.Body)
			return stop(r)
		}, 2 * time.Minute, "nothing came for 2m0s"},
		"an answer of which no more comes": {http.MethodGet, "", func(r *http.Request) (*http.Response, error) {
			resp := answer(r, http.StatusOK)
			r2, w := io.Pipe()
			context.AfterFunc(r.Context(), func() { w.CloseWithError(r.Context().Err()) })
			go func() { _, _ = w.Write([]byte("{")) }()
			resp.Body = r2
			return resp, nil
		}, time.Minute, "nothing came for 1m0s"},
		"what broke is none": {http.MethodGet, "", func(*http.Request) (*http.Response, error) { return nil, broken }, 0, "broken"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				_, err := exchange(t.Context(), tt.method, tt.text, tt.inner)
				if took := time.Since(began) % time.Hour; err == nil || err.Error() != tt.err || took != tt.took {
					t.Errorf("%v after %v, want %q after %v", err, took, tt.err, tt.took)
				}
				if !isFleeting(err) {
					t.Errorf("%v: is not tried again", err)
				}
			})
		})
	}
}
