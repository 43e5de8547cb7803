package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/whittle-build/whittle"
)

// cacheFlags are the shared caches as they are written.
type cacheFlags struct {
	from, to          []string
	signKey, checkKey string // files
}

func (f *cacheFlags) addFrom(fl *pflag.FlagSet) {
	fl.StringVar(&f.checkKey, "cache-verify-key", "", "take from shared caches only what is signed by the key of which the public one is in `FILE`")
	fl.StringArrayVar(&f.from, "cache-from", nil, "take steps from the shared cache `REF`, type=registry,ref=REF or type=local,src=DIR; may be repeated")
}

func (f *cacheFlags) addTo(fl *pflag.FlagSet) {
	fl.StringVar(&f.signKey, "cache-sign-key", "", "sign what is added to shared caches with the private key in `FILE`, and take from them only what it has signed")
	fl.StringArrayVar(&f.to, "cache-to", nil, "add this build's steps to the shared cache type=registry,ref=`REF`, type=local,dest=DIR or type=inline (beside the image), [,mode=max]; may be repeated")
}

// complete makes the request of them.
func (f *cacheFlags) complete(r *whittle.Request) (err error) {
	if f.signKey != "" && len(f.to) == 0 {
		return &usageError{errors.New("--cache-sign-key: no shared cache is written"), "add --cache-to"}
	}
	for _, key := range []struct {
		flag, file string
		into       *[]byte
	}{{"cache-sign-key", f.signKey, &r.CacheSignKey}, {"cache-verify-key", f.checkKey, &r.CacheVerifyKey}} {
		if key.file == "" {
			continue
		}
		if *key.into, err = os.ReadFile(key.file); err != nil {
			return &usageError{fmt.Errorf("--%s: %w", key.flag, err), "name a PEM file"}
		}
	}
	for _, list := range []struct {
		flag  string
		texts []string
		into  *[]whittle.Cache
	}{{"cache-from", f.from, &r.CacheFrom}, {"cache-to", f.to, &r.CacheTo}} {
		for _, text := range list.texts {
			c, err := parseCache(list.flag, text)
			if err != nil {
				return err
			}
			if err := c.Check(); err != nil {
				return &usageError{fmt.Errorf("--%s: %w", list.flag, err), whittle.Hint(err)}
			}
			*list.into = append(*list.into, c)
		}
	}
	return nil
}

// parseCache reads docker's --cache-from and --cache-to.
func parseCache(flag, text string) (c whittle.Cache, err error) {
	bad := func(msg, way string) (whittle.Cache, error) {
		return c, &usageError{fmt.Errorf("--%s %q: %s", flag, text, msg), way}
	}
	from := flag == "cache-from"
	form := "for example type=registry,ref=HOST/NAME:cache, type=local,dest=DIR or type=inline"
	if from {
		form = "for example type=registry,ref=HOST/NAME:cache or type=local,src=DIR"
	}
	fields, err := csvFields(text)
	if err != nil || text == "" {
		return bad("want REF or KEY=VALUE,KEY=VALUE…", form)
	}
	if len(fields) == 1 && !strings.Contains(text, "=") {
		return whittle.Cache{Ref: text}, nil
	}
	kind, place := cachePlace(fields, from)
	switch {
	case kind == "inline" && from:
		return bad("type inline: is written by --cache-to, and read by the name of the image", "for example --cache-from HOST/NAME:TAG")
	case kind == "inline":
		c.Inline = true
	case place == "":
		return bad(fmt.Sprintf("type %q: there are registry, local and, to write, inline", kind), form)
	}
	seen := map[string]bool{}
	for _, field := range fields {
		k, v, _ := strings.Cut(field, "=")
		if seen[k] {
			return bad(k+" is given twice", "write the flag once more for another cache")
		}
		seen[k] = true
		switch {
		case k == "type":
		case k == place && kind == "registry":
			c.Ref = v
		case k == place:
			c.Dir = v
		case k == "tag" && kind == "local":
			c.Tag = v
		case k == "mounts" && kind == "inline":
			return bad("mounts: what lies beside an image has no cache mounts", "type=registry,ref=REF,mounts=… and type=local carry them")
		case k == "mounts":
			c.Mounts = strings.Split(v, ",")
		case from:
			return bad(fmt.Sprintf("unknown key %q", k), form)
		default:
			if err := setExport(&c, k, v); err != nil {
				return bad(err.Error(), form)
			}
		}
	}
	if c.Inline && c.Max {
		return bad("mode=max: what lies beside an image has the image's layers", "type=registry,ref=REF,mode=max has those of all stages")
	}
	if place != "" && c.Ref == "" && c.Dir == "" {
		return bad("has no "+place, form)
	}
	return c, nil
}

// cachePlace is the type that an option names, and the key that says where such a cache
// is; "" is none.
func cachePlace(fields []string, from bool) (kind, key string) {
	for _, field := range fields {
		if k, v, _ := strings.Cut(field, "="); k == "type" {
			kind = v
		}
	}
	switch {
	case kind == "registry":
		return kind, "ref"
	case kind == "local" && from:
		return kind, "src"
	case kind == "local":
		return kind, "dest"
	}
	return kind, ""
}

// setExport sets one option of --cache-to.
func setExport(c *whittle.Cache, k, v string) (err error) {
	switch k {
	case "oci-mediatypes", "image-manifest":
		if v != "true" {
			return fmt.Errorf("%s %q: it is always true", k, v)
		}
	case "mode":
		if v != "min" && v != "max" {
			return fmt.Errorf("mode %q: there are min and max", v)
		}
		c.Max = v == "max"
	case "ignore-error":
		if c.IgnoreError, err = strconv.ParseBool(v); err != nil {
			return fmt.Errorf("ignore-error %q: want true or false", v)
		}
	case "force-compression":
		if c.Force, err = strconv.ParseBool(v); err != nil {
			return fmt.Errorf("force-compression %q: want true or false", v)
		}
	case "compression":
		c.Compression.Format = v
		return c.Compression.Check()
	case "compression-level":
		if c.Compression.Level, err = strconv.Atoi(v); err != nil {
			return fmt.Errorf("compression-level %q: want a number", v)
		}
	default:
		return fmt.Errorf("unknown key %q", k)
	}
	return nil
}
