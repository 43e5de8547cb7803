package whittle

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

func TestALoginSaysThatItWaits(t *testing.T) {
	var asked atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) == 1 {
			w.Header().Set("Retry-After", "3") // shorter ones are not told
			w.WriteHeader(http.StatusTooManyRequests)
		}
	}))
	defer s.Close()
	var said []string
	a := Access{Credentials: []string{filepath.Join(t.TempDir(), "config.json")}, Say: func(text string) { said = append(said, text) }}
	domain, where, err := a.Login(t.Context(), s.URL, "user", "secret")
	if err != nil || where != a.Credentials[0] || len(said) != 1 || !strings.Contains(said[0], "registry "+domain+" asks to be left alone for 3s") {
		t.Errorf("%s, kept by %s, %v; it said %q", domain, where, err, said)
	}
}
