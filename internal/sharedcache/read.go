package sharedcache

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/whittle-build/whittle/internal/digest"
)

// readDocument reads a document piece by piece: what somebody else has written may be
// small and yet say that there is a great deal, and of that no more is kept than may be
// there.
func readDocument(r io.Reader) (doc document, err error) {
	in := json.NewDecoder(r)
	if err := expect(in, json.Delim('{')); err != nil {
		return doc, err
	}
	for in.More() {
		name, err := in.Token()
		if err != nil {
			return doc, err
		}
		switch name {
		case "format":
			err = in.Decode(&doc.Format)
		case "records":
			doc.Records, err = list(in, maxRecords, (*Record).check)
		case "layers":
			doc.Layers, err = list(in, maxRecords, (*Layer).check)
		case "includes":
			doc.Includes, err = list(in, maxRecords, func(*string) error { return nil })
		case "contents":
			doc.Contents, err = contents(in, maxRecords)
		default:
			err = skip(in)
		}
		if err != nil {
			return doc, fmt.Errorf("%v: %w", name, err)
		}
	}
	return doc, expect(in, json.Delim('}'))
}

// expect reads one token, which has to be want.
func expect(in *json.Decoder, want json.Delim) error {
	got, err := in.Token()
	if err == nil && got != want {
		err = fmt.Errorf("%v where %v should be", got, want)
	}
	return err
}

// list reads an array, or null, of at most so many of what check lets through.
func list[T any](in *json.Decoder, most int, check func(*T) error) (all []T, err error) {
	if begins, err := opened(in, '['); !begins {
		return nil, err
	}
	for in.More() {
		if len(all) == most {
			return nil, fmt.Errorf("more than %d", most)
		}
		var one T
		if err := in.Decode(&one); err != nil {
			return nil, err
		}
		if err := check(&one); err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, expect(in, ']')
}

func contents(in *json.Decoder, most int) (map[string]digest.Digest, error) {
	all := map[string]digest.Digest{}
	if begins, err := opened(in, '{'); !begins {
		return all, err
	}
	for in.More() {
		if len(all) == most {
			return nil, fmt.Errorf("more than %d", most)
		}
		name, err := in.Token()
		if err != nil {
			return nil, err
		}
		var d digest.Digest
		if err := in.Decode(&d); err != nil {
			return nil, err
		}
		all[fmt.Sprint(name)] = d
	}
	return all, expect(in, '}')
}

// opened reads the beginning of a value: null is one that has nothing.
func opened(in *json.Decoder, want json.Delim) (bool, error) {
	got, err := in.Token()
	if err == nil && got != nil && got != want {
		err = fmt.Errorf("%v where %v should be", got, want)
	}
	return err == nil && got != nil, err
}

// skip passes over a value, of which nothing is kept.
func skip(in *json.Decoder) error {
	for depth := 0; ; {
		token, err := in.Token()
		if err != nil {
			return err
		}
		switch token {
		case json.Delim('{'), json.Delim('['):
			depth++
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		if depth == 0 {
			return nil
		}
	}
}
