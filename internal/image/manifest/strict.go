package manifest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// maxDepth bounds the nesting of a document.
const maxDepth = 32

// names are the keys with a meaning, by their lower-case form.
var names = map[string]string{
	"schemaversion": "schemaVersion", "mediatype": "mediaType", "config": "config", "layers": "layers",
	"manifests": "manifests", "digest": "digest", "size": "size", "platform": "platform",
	"annotations": "annotations", "urls": "urls", "data": "data", "fslayers": "fsLayers", "subject": "subject",
	"artifacttype": "artifactType", "architecture": "architecture", "os": "os", "variant": "variant",
}

// strict walks a document and refuses what two readers could understand
// differently: a key twice in one object, a known key in another case (Go's
// decoder takes it, others do not), data after the end. It returns the keys of
// the outermost object.
func strict(b []byte) (map[string]bool, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("%d bytes, more than %d", len(b), MaxSize)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	if t != json.Delim('{') {
		return nil, fmt.Errorf("not a JSON object")
	}
	keys, err := object(d, 1, false)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("data after the document")
	}
	return keys, nil
}

// object reads an object whose brace is already read. free objects
// (annotations) have keys without meaning.
func object(d *json.Decoder, depth int, free bool) (map[string]bool, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("nested deeper than %d", maxDepth)
	}
	keys := map[string]bool{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		key, ok := t.(string)
		if !ok {
			return nil, fmt.Errorf("key %v is not a string", t)
		}
		if keys[key] {
			return nil, fmt.Errorf("key %q twice in one object", key)
		}
		keys[key] = true
		if want := names[strings.ToLower(key)]; !free && want != "" && want != key {
			return nil, fmt.Errorf("key %q, which some readers take for %q", key, want)
		}
		if err := value(d, depth+1, key == "annotations"); err != nil {
			return nil, err
		}
	}
	_, err := d.Token()
	return keys, err
}

func value(d *json.Decoder, depth int, free bool) error {
	t, err := d.Token()
	if err != nil {
		return err
	}
	switch t {
	case json.Delim('{'):
		_, err := object(d, depth, free)
		return err
	case json.Delim('['):
		if depth > maxDepth {
			return fmt.Errorf("nested deeper than %d", maxDepth)
		}
		for d.More() {
			if err := value(d, depth+1, free); err != nil {
				return err
			}
		}
		_, err := d.Token()
		return err
	}
	return nil
}
