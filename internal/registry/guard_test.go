package registry

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// redirectedTokens is a registry with tokens, of which the server answers the request for
// one with code and to.
func redirectedTokens(t *testing.T, to string, code int) (*fake, Ref) {
	f, ref := pushed(t, paint(t, "amd64", 10))
	f.inject(func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case r.URL.Path == "/token":
			http.Redirect(w, r, to, code)
		case r.Header.Get("Authorization") == "Bearer given":
			return false
		default:
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="fake"`, f.URL))
			w.WriteHeader(http.StatusUnauthorized)
		}
		return true
	})
	return f, ref
}

func TestAttack34_AnIdentityTokenGoesToNoOtherHost(t *testing.T) {
	for _, code := range []int{http.StatusMovedPermanently, http.StatusTemporaryRedirect, http.StatusPermanentRedirect} {
		var mu sync.Mutex
		var leaked []string
		thief := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			if v := r.FormValue("refresh_token"); v != "" {
				leaked = append(leaked, v)
			}
			fmt.Fprint(w, `{"token":"given"}`)
		}))
		defer thief.Close()
		// By another name, since a token server may not be sent to an address of the inner network.
		to := strings.Replace(thief.URL, "127.0.0.1", "localhost", 1)
		f, ref := redirectedTokens(t, to+"/token", code)
		c := client()
		c.Keys = configFile(t, `{"auths": {"`+f.host()+`": {"identitytoken": "geheim"}}}`)
		_, err := c.Resolve(t.Context(), ref, amd64)
		if len(leaked) > 0 {
			t.Errorf("%d: the other host got %q", code, leaked)
		}
		if code == http.StatusMovedPermanently { // which is asked without a form
			continue
		}
		if err == nil || !strings.Contains(err.Error(), "would show a token to localhost") || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%d: %v", code, err)
		}
		if n := f.count("POST /token"); n != 1 {
			t.Errorf("%d: asked %d times", code, n)
		}
	}
}

func TestAnIdentityTokenGoesWhereItsHostRedirectsItself(t *testing.T) {
	var f *fake
	f, ref := redirectedTokens(t, "/token/at", http.StatusTemporaryRedirect)
	inner := f.fault
	f.inject(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/token/at" && r.FormValue("refresh_token") == "geheim" {
			fmt.Fprint(w, `{"token":"given"}`)
			return true
		}
		return inner(w, r)
	})
	c := client()
	c.Keys = configFile(t, `{"auths": {"`+f.host()+`": {"identitytoken": "geheim"}}}`)
	if _, err := c.Resolve(t.Context(), ref, amd64); err != nil {
		t.Error(err)
	}
}

func TestAttack24_AnUploadIsNotSentIntoTheInnerNetwork(t *testing.T) {
	p := paint(t, "amd64", 6_000_000)
	const storage = "https://storage.example/upload"
	for name, tt := range map[string]struct{ post, patch, get string }{
		"begun there":       {"http://127.0.0.1:2375/containers", "", ""},
		"begun by https":    {"https://10.0.0.1/x", "", ""},
		"ended there":       {storage, "https://169.254.169.254/latest", ""},
		"gone on there":     {storage, "", "https://[::1]/"},
		"by another's name": {"https://localhost/x", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := &wire{}
			w.do = func(r *http.Request) (*http.Response, error) {
				if isInside(r.URL.Hostname()) {
					t.Errorf("%s %s was sent", r.Method, r.URL)
				}
				switch r.Method {
				case http.MethodPost:
					return answer(r, http.StatusAccepted, "Location", tt.post), nil
				case http.MethodPatch:
					return answer(r, http.StatusAccepted, "Location", tt.patch), nil
				case http.MethodHead:
					return answer(r, http.StatusNotFound), nil
				case http.MethodPut:
					return answer(r, http.StatusBadGateway), nil
				}
				if strings.HasPrefix(r.URL.String(), storage) {
					return answer(r, http.StatusNoContent, "Location", tt.get, "Range", "0-4999999"), nil
				}
				return answer(r, http.StatusOK), nil
			}
			c := client()
			c.Transport = w
			if _, err := c.Push(t.Context(), p.upload(Ref{Domain: "example.com", Path: "a", Tag: "1"})); err == nil {
				t.Error("it was pushed")
			} else if name != "gone on there" && name != "ended there" && !strings.Contains(err.Error(), "an address of the inner network") {
				t.Errorf("got %v", err)
			}
			m := &making{data: p.layers[0]}
			if _, err := c.Push(t.Context(), m.upload(p, Ref{Domain: "example.com", Path: "a", Tag: "1"})); err == nil {
				t.Error("it was pushed while it was made")
			}
		})
	}
}

func TestALongPageHidesNoStatus(t *testing.T) {
	page := strings.Repeat("<p>no such page</p>\n", 4000) // 80 kB
	for _, code := range []int{http.StatusNotFound, http.StatusForbidden, http.StatusBadRequest} {
		f := serve(t)
		f.inject(func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/v2/" {
				return false
			}
			w.WriteHeader(code)
			fmt.Fprint(w, page)
			return true
		})
		_, err := client().Resolve(t.Context(), f.ref("app", "1"), amd64)
		var e *Error
		if !errors.As(err, &e) || code == http.StatusNotFound && e.Cause != ErrNotFound || code == http.StatusForbidden && e.Cause != ErrDenied ||
			code == http.StatusBadRequest && !strings.Contains(err.Error(), "answers 400") {
			t.Errorf("%d: %v", code, err)
		}
		if n := f.count("GET /v2/app/manifests/1"); n != 1 {
			t.Errorf("%d: asked %d times", code, n)
		}
	}
}
