package progress

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestSizesAreWrittenAsDockerWritesThem(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0B", 999: "999B", 1000: "1kB", 6656: "6.656kB", 1_200_000: "1.2MB", 12_345_678: "12.35MB",
		999_999: "1000kB", 5_000_000_000: "5GB", 1 << 62: "4.612EB", -5: "-5B",
	} {
		if got := HumanSize(n); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
}

func TestDurations(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0.0s", -time.Second: "0.0s", 440 * ms: "0.4s", 59940 * ms: "59.9s", 59960 * ms: "1m00s",
		123 * time.Second: "2m03s", 3720 * time.Second: "1h02m",
	} {
		if got := HumanDuration(d); got != want {
			t.Errorf("%v: got %s, want %s", d, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		123 * ms: "0.123", 12345 * ms: "12.35", 123456 * ms: "123.5", 9999600 * time.Microsecond: "10.00", 12345 * time.Second: "12345",
	} {
		if got := seconds(d); got != want {
			t.Errorf("%v: got %s, want %s", d, got, want)
		}
	}
}

func TestWhatATerminalObeysIsTakenOut(t *testing.T) {
	tests := map[string]string{
		"plain":                      "plain",
		"\x1b[31mred\x1b[0m":         "red",
		"\x1b[2J\x1b[1;1Hhome":       "home",
		"\x1b]0;title\x07text":       "text",
		"\x1b]8;;http://x\x1b\\link": "link",
		"\x1b]0;no end":              "0;no end",
		"\x1bPq#0\x1b\\sixel":        "sixel",
		"\x1b(Bcharset\x1b7\x1b8":    "charset",
		"\x1b":                       "",
		"\x1b[":                      "",
		"\x1b[12":                    "",
		"a\bb\ac\x00d\x7fe":          "abcde",
		"c1 \u009b31mcsi":            "c1 31mcsi",
		"raw \x9b31m":                "raw \ufffd31m",
		"a\u202eb\u2066c\u200fd":     "abcd",
		"tab\tbed":                   "tab bed",
		"世界 e\u0301":                 "世界 e\u0301",
		"\x1b\x1b[31mtwice":          "twice",
	}
	for in, want := range tests {
		if got := Clean(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestCleaningHostileOutputTakesNoLongerThanItsLength(t *testing.T) {
	start := time.Now()
	Clean(strings.Repeat("\x1b]", maxPart/2))
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("1 MiB took %v", took)
	}
}

func FuzzClean(f *testing.F) {
	f.Add("\x1b[31mred\x1b]0;x\x07\x1b")
	f.Fuzz(func(t *testing.T, s string) {
		got := Clean(s)
		if !utf8.ValidString(got) || strings.ContainsFunc(got, obeyed) {
			t.Errorf("%q became %q", s, got)
		}
		if Clean(got) != got {
			t.Errorf("%q is not clean", got)
		}
		for n := range 20 {
			if w := width(fit(got, n)); w > n {
				t.Errorf("%q fit to %d is %d wide", got, n, w)
			}
		}
	})
}

func TestTheLastTextOfALineIsWhatIsSeen(t *testing.T) {
	for in, want := range map[string]string{
		"a\rb": "b", "a\rb\r": "b", "a\r\x1b[K": "a", "": "", "\r\r": "", " x ": "x", "\x1b[2K\rdone\x1b[0m": "done",
	} {
		if got := lastText([]byte(in)); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestTheCleanerKeepsEveryLine(t *testing.T) {
	var got bytes.Buffer
	c := &cleaner{w: &got}
	for _, part := range []string{"one\r", "\ntw", "o\n\n10%\r20%\r", "30%\n", "\x1b[3", "1mred\x1b[0m", " end"} {
		c.Write([]byte(part))
	}
	c.flush()
	if want := "one\ntwo\n\n10%\n20%\n30%\nred end\n"; got.String() != want {
		t.Errorf("got %q, want %q", got.String(), want)
	}
	got.Reset()
	long := strings.Repeat("x", 3*maxPart)
	c.Write([]byte(long))
	c.flush()
	if strings.ReplaceAll(got.String(), "\n", "") != long {
		t.Errorf("a long line lost something: %d of %d", got.Len(), len(long))
	}
}

func TestJSONKeepsBytesAndCharacters(t *testing.T) {
	var got bytes.Buffer
	record("json", &got, func(r *recorder) {
		r.after(0, Event{Kind: Log, Vertex: 3, Stream: 1, Data: []byte("h\xc3")})
		r.after(0, Event{Kind: Log, Vertex: 3, Stream: 2, Data: []byte("<\xff>")})
		r.after(0, Event{Kind: Log, Vertex: 3, Stream: 1, Data: []byte("\xa9\xe4")})
		r.after(0, Event{Kind: Done, Vertex: 3})
	})
	golden(t, "json-bytes", got.String())
}
