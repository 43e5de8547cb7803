package container

import (
	"os"
	"path/filepath"
	"testing"
)

// The list of runs as it was when the watch began, and as it is at its end.
func TestAWatchReadsTheCodeOfItsOwnRun(t *testing.T) {
	for name, c := range map[string]struct {
		before, after string
		code          int
		goesOn        bool
	}{
		"it ended":                               {"+", "7\n", 7, true},
		"it is not the first":                    {"+0\n+", "7\n", 7, true},
		"the next one runs":                      {"+", "7\n+", 7, false},
		"the next one has ended":                 {"+", "7\n+8\n", 7, false},
		"its mark came late":                     {"+0\n", "+7\n", 7, true},
		"its mark came late, the next one runs":  {"", "+7\n+", 7, false},
		"it was killed, the next one runs":       {"+", "+", codeKilled, false},
		"it was killed, the next one has ended":  {"+", "+0\n", codeKilled, false},
		"it was killed and its mark came late":   {"+0\n", "++", codeKilled, false},
		"it was killed, and long after one ends": {"+", "+0\n+0\n+0\n", codeKilled, false},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), runLock)
			if err := os.WriteFile(path, []byte(c.before+c.after), 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			holder, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer holder.Close()
			if ok, err := tryLock(holder); !ok {
				t.Fatal(err)
			}
			w := &Watch{f: f, from: int64(len(c.before))}
			defer w.Close()
			if got := w.goesOn(); got != c.goesOn {
				t.Errorf("goes on: %v, want %v", got, c.goesOn)
			}
			if got, err := w.Code(); got != c.code || err != nil {
				t.Errorf("code %d, %v; want %d", got, err, c.code)
			}
		})
	}
}
