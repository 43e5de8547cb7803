package image

import (
	"errors"
	"strings"
	"testing"
)

const hex64 = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"

func TestParseNameFillsInWhatPeopleLeaveOut(t *testing.T) {
	tests := []struct{ in, full, familiar string }{
		{"golang:1.15", "docker.io/library/golang:1.15", "golang:1.15"},
		{"golang", "docker.io/library/golang:latest", "golang:latest"},
		{"docker.io/golang", "docker.io/library/golang:latest", "golang:latest"},
		{"index.docker.io/library/golang", "docker.io/library/golang:latest", "golang:latest"},
		{"user/app", "docker.io/user/app:latest", "user/app:latest"},
		{"library/golang", "docker.io/library/golang:latest", "golang:latest"},
		{"localhost/app", "localhost/app:latest", "localhost/app:latest"},
		{"localhost:5000/app:v1", "localhost:5000/app:v1", "localhost:5000/app:v1"},
		{"[::1]:5000/app", "[::1]:5000/app:latest", "[::1]:5000/app:latest"},
		{"ghcr.io/a/b/c:x.Y_z-1", "ghcr.io/a/b/c:x.Y_z-1", "ghcr.io/a/b/c:x.Y_z-1"},
		{"Host/app", "Host/app:latest", "Host/app:latest"},
		{"a__b/c-d.e--f", "docker.io/a__b/c-d.e--f:latest", "a__b/c-d.e--f:latest"},
		{"alpine@sha256:" + hex64, "docker.io/library/alpine@sha256:" + hex64, "alpine@sha256:" + hex64},
		{"alpine:3@sha256:" + hex64, "docker.io/library/alpine:3@sha256:" + hex64, "alpine:3@sha256:" + hex64},
		{"127.0.0.1:5000/x", "127.0.0.1:5000/x:latest", "127.0.0.1:5000/x:latest"},
	}
	for _, tt := range tests {
		n, err := ParseName(tt.in)
		if err != nil {
			t.Errorf("%s: %v", tt.in, err)
			continue
		}
		if n.String() != tt.full || n.Familiar() != tt.familiar {
			t.Errorf("%s: %s, %s; want %s, %s", tt.in, n, n.Familiar(), tt.full, tt.familiar)
		}
	}
}

func TestParseNameRefusesWhatIsNoName(t *testing.T) {
	tests := []struct{ in, msg, hint string }{
		{"", "empty", "NAME:TAG"},
		{"MyApp", "upper-case", "write it as myapp"},
		{"MyApp:V1", "upper-case", "write it as myapp:V1"},
		{"user/MyApp@sha256:" + hex64, "upper-case", "user/myapp@sha256:" + hex64},
		{"app:", "tag is empty", "colon"},
		{"app:-x", "not a tag", "128"},
		{"app:" + strings.Repeat("x", 129), "not a tag", "128"},
		{"app:a:b", "is not a part", ""},
		{"a//b", "is not a part", ""},
		{"/a", "is not a part", ""},
		{"a/", "is not a part", ""},
		{"../../etc/passwd", "is not a host", ""},
		{"a/../b", "is not a part", ""},
		{"-a", "is not a part", ""},
		{"a___b", "is not a part", ""},
		{"a b", "is not a part", ""},
		{"a\nb", "is not a part", ""},
		{"a@sha256:" + strings.Repeat("0", 64), "all zeros", "digest"},
		{"a:1@sha256:" + strings.Repeat("0", 64), "all zeros", "digest"},
		{"a@md5:abc", "sha256:", "64"},
		{"a@sha256:abc", "64 lower-case", "64"},
		{"a@" + hex64, "sha256:", "64"},
		{hex64, "image ID", "sha256:" + hex64},
		{strings.Repeat("a", 256), "longer than 255", ""},
		{"exa_mple.com/a", "is not a host", ""},
		{"example.com:port/a", "is not a host", ""},
		{"http://example.com/a", "", ""},
	}
	for _, tt := range tests {
		n, err := ParseName(tt.in)
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("%q: got %v, %v, want an Error", tt.in, n, err)
			continue
		}
		if !strings.Contains(e.Msg, tt.msg) || !strings.Contains(e.Hint(), tt.hint) {
			t.Errorf("%q: %q, hint %q; want %q, hint %q", tt.in, e.Msg, e.Hint(), tt.msg, tt.hint)
		}
	}
}

func FuzzParseName(f *testing.F) {
	for _, s := range []string{"golang:1.15", "localhost:5000/a/b@sha256:" + hex64, "A/b", "[::1]/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseName(s)
		if err != nil {
			return
		}
		for _, form := range []string{n.String(), n.Familiar()} {
			again, err := ParseName(form)
			if err != nil || again != n {
				t.Errorf("%q gives %+v, its form %q gives %+v, %v", s, n, form, again, err)
			}
		}
	})
}
