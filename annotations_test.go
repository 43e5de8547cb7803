package whittle

import (
	"maps"
	"strings"
	"testing"

	"github.com/whittle-build/whittle/internal/plan"
)

func TestAnnotations(t *testing.T) {
	arm := plan.Platform{OS: "linux", Arch: "arm64"}
	tests := map[string]struct {
		in   []string
		want map[string]string
		err  string
	}{
		"none":              {nil, map[string]string{}, ""},
		"plain":             {[]string{"a=b", "c=", "d=e=f"}, map[string]string{"a": "b", "c": "", "d": "e=f"}, ""},
		"the last wins":     {[]string{"a=b", "manifest:a=c"}, map[string]string{"a": "c"}, ""},
		"for the platform":  {[]string{"manifest[linux/arm64]:a=b", "manifest[linux/amd64]:a=c"}, map[string]string{"a": "b"}, ""},
		"several kinds":     {[]string{"manifest[linux/amd64],manifest:a=b"}, map[string]string{"a": "b"}, ""},
		"no value":          {[]string{"a"}, nil, "want KEY=VALUE"},
		"no key":            {[]string{"manifest:=a"}, nil, "want KEY=VALUE"},
		"index":             {[]string{"index:a=b"}, nil, "no index"},
		"one of two":        {[]string{"manifest,index-descriptor:a=b"}, nil, "no index-descriptor"},
		"unknown":           {[]string{"layer:a=b"}, nil, `unknown kind "layer"`},
		"no kind":           {[]string{"Manifest:a=b"}, nil, "no kind of document"},
		"no platform":       {[]string{"manifest[a/b/c/d]:a=b"}, nil, "manifest[a/b/c/d]"},
		"a value with kind": {[]string{"a=index:b"}, map[string]string{"a": "index:b"}, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			of, err := annotationsOf(tt.in, arm, false)
			got := of.manifest
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) || Hint(err) == "" {
					t.Errorf("error %v, want %q and a hint", err, tt.err)
				}
				return
			}
			if err != nil || !maps.Equal(got, tt.want) {
				t.Errorf("got %v, %v; want %v", got, err, tt.want)
			}
		})
	}
}
