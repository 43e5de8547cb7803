package registry

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestRetryAfterIsKeptToExactly(t *testing.T) {
	const most = 2 * time.Minute
	for name, tt := range map[string]struct {
		path   string
		header func(now time.Time) string
		wait   time.Duration // 0: it fails at once
		told   string
	}{
		"a manifest, a second":       {"/v2/a/manifests/1", func(time.Time) string { return "1" }, time.Second, ""},
		"a manifest, two minutes":    {"/v2/a/manifests/1", func(time.Time) string { return "120" }, most, "registry example.com asks to be left alone for 2m0s"},
		"a manifest, by the clock":   {"/v2/a/manifests/1", func(now time.Time) string { return now.Add(90 * time.Second).UTC().Format(http.TimeFormat) }, 90 * time.Second, "1m30s"},
		"a manifest, an hour":        {"/v2/a/manifests/1", func(time.Time) string { return "3600" }, 0, "asks to be left alone for 1h0m0s"},
		"a manifest, by next year":   {"/v2/a/manifests/1", func(now time.Time) string { return now.Add(9000 * time.Hour).UTC().Format(http.TimeFormat) }, 0, "asks to be left alone for 9000h0m0s"},
		"what the registry is":       {"/v2/", func(time.Time) string { return "40" }, 40 * time.Second, "40s"},
		"what it is, an hour":        {"/v2/", func(time.Time) string { return "3600" }, 0, "asks to be left alone for 1h0m0s"},
		"a token":                    {"/token", func(time.Time) string { return "50" }, 50 * time.Second, "50s"},
		"a manifest, long ago":       {"/v2/a/manifests/1", func(time.Time) string { return "Tue, 02 Jan 1996 15:04:05 GMT" }, time.Millisecond, ""},
		"a manifest, without sense":  {"/v2/a/manifests/1", func(time.Time) string { return "soon" }, time.Millisecond, ""},
		"a manifest, too large":      {"/v2/a/manifests/1", func(time.Time) string { return "99999999999999999999" }, time.Millisecond, ""},
		"a manifest, more than time": {"/v2/a/manifests/1", func(time.Time) string { return "9223372036854775807" }, 0, "asks to be left alone for"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				var asked []time.Duration
				c := client()
				c.Transport = &wire{do: func(r *http.Request) (*http.Response, error) {
					switch {
					case r.URL.Path == tt.path:
						if asked = append(asked, time.Since(began)); len(asked) == 1 {
							return answer(r, http.StatusTooManyRequests, "Retry-After", tt.header(began)), nil
						}
					case r.URL.Path == "/v2/" && tt.path != "/token":
						return answer(r, http.StatusOK), nil
					case r.URL.Path == "/v2/":
						return answer(r, http.StatusUnauthorized, "WWW-Authenticate", `Bearer realm="https://example.com/token"`), nil
					}
					return answer(r, http.StatusNotFound), nil // it is over
				}}
				var mu sync.Mutex
				var told []string
				c.Event = func(e Event) {
					mu.Lock()
					defer mu.Unlock()
					if e.Action == Waiting {
						told = append(told, e.Err.Error())
					}
				}
				_, err := c.Resolve(t.Context(), Ref{Domain: "example.com", Path: "a", Tag: "1"}, amd64)
				if tt.wait == 0 {
					if err == nil || len(asked) != 1 || !strings.Contains(err.Error(), tt.told) || !strings.Contains(err.Error(), "example.com") {
						t.Errorf("asked at %v, %v; want %q", asked, err, tt.told)
					}
					return
				}
				if len(asked) != 2 || asked[1] != tt.wait {
					t.Errorf("asked at %v, want after %v", asked, tt.wait)
				}
				if text := strings.Join(told, "; "); !strings.Contains(text, tt.told) || tt.told == "" && text != "" {
					t.Errorf("told %q, want %q", text, tt.told)
				}
			})
		})
	}
}
