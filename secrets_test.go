package whittle

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestSecretsAreFoundByID(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("from a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := Request{Secrets: []Secret{{ID: "a", Value: []byte("a value")}, {ID: "b", File: file}}}
	if err := r.checkSecrets(); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]string{"a": "a value", "b": "from a file\n"} {
		got, ok, err := r.Secret(t.Context(), id)
		if string(got) != want || !ok || err != nil {
			t.Errorf("Secret(%s) = %q, %v, %v; want %q", id, got, ok, err, want)
		}
	}
	if _, ok, err := r.Secret(t.Context(), "c"); ok || err != nil {
		t.Errorf("a secret that nobody gave: %v, %v", ok, err)
	}
}

func TestSecretsThatCannotBeReadAreRefusedBeforeAnythingRuns(t *testing.T) {
	dir := t.TempDir()
	large := filepath.Join(dir, "large")
	if err := os.WriteFile(large, bytes.Repeat([]byte("x"), MaxSecret+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		secret Secret
		want   string
	}{
		{Secret{ID: "s", File: filepath.Join(dir, "none")}, "no such file"},
		{Secret{ID: "s", File: dir}, "is a folder"},
		{Secret{ID: "s", File: large}, "larger than 512000 bytes"},
		{Secret{ID: "s", Value: make([]byte, MaxSecret+1)}, "larger than 512000 bytes"},
	} {
		r := Request{Secrets: []Secret{c.secret}}
		if err := r.checkSecrets(); err == nil || !strings.Contains(err.Error(), c.want) || Hint(err) == "" {
			t.Errorf("%+v: %v, hint %q; want %q", c.secret.File, err, Hint(err), c.want)
		}
	}
}

func TestAPipeThatNobodyWritesToHoldsUpNoEnd(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	stopped := errors.New("stopped")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(10*time.Millisecond, func() { cancel(stopped) })
	r := Request{Secrets: []Secret{{ID: "a", File: fifo}}}
	if _, _, err := r.Secret(ctx, "a"); !errors.Is(err, stopped) {
		t.Errorf("got %v, want %v", err, stopped)
	}
	// What is left behind ends with the first writer.
	if w, err := os.OpenFile(fifo, os.O_WRONLY, 0); err != nil {
		t.Error(err)
	} else {
		w.Close()
	}
}
