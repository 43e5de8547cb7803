package suite

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// A field is one of a JSON object's, which keep their order here: it is part of
// what is compared.
type field struct {
	name  string
	value json.RawMessage
}

func fieldsOf(raw json.RawMessage) ([]field, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, fmt.Errorf("%.40s: no JSON object: %w", raw, err)
	}
	var list []field
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, err
		}
		f := field{name: fmt.Sprint(name)}
		if err := d.Decode(&f.value); err != nil {
			return nil, err
		}
		list = append(list, f)
	}
	return list, nil
}

func object(list []field) json.RawMessage {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, f := range list {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(compact(f.name) + ":")
		b.Write(f.value)
	}
	b.WriteByte('}')
	return b.Bytes()
}

// describeConfig returns a config as it was written, but for what no two builds
// have alike: times of the build are "now", and of the diffIDs there is the
// number only.
func describeConfig(raw json.RawMessage, began time.Time) (json.RawMessage, error) {
	list, err := fieldsOf(raw)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	for i, f := range list {
		switch {
		case f.name == "created":
			list[i].value = showCreated(f.value, began)
		case f.name == "rootfs":
			list[i].value, err = describeRootFS(f.value)
		case f.name == "history" && string(f.value) != "null":
			list[i].value, err = describeHistory(f.value, began)
		}
		if err != nil {
			return nil, fmt.Errorf("config: %s: %w", f.name, err)
		}
	}
	return object(list), nil
}

func showCreated(raw json.RawMessage, began time.Time) json.RawMessage {
	var at time.Time
	if err := json.Unmarshal(raw, &at); err != nil || at.Before(began.Truncate(time.Second)) {
		return raw
	}
	return json.RawMessage(`"now"`)
}

func describeRootFS(raw json.RawMessage) (json.RawMessage, error) {
	list, err := fieldsOf(raw)
	if err != nil {
		return nil, err
	}
	for i, f := range list {
		var ids []string
		if f.name == "diff_ids" && string(f.value) != "null" {
			if err := json.Unmarshal(f.value, &ids); err != nil {
				return nil, err
			}
			list[i].value = json.RawMessage(fmt.Sprint(len(ids)))
		}
	}
	return object(list), nil
}

func describeHistory(raw json.RawMessage, began time.Time) (json.RawMessage, error) {
	var entries []json.RawMessage
	if err := json.Unmarshal(raw, &entries); err != nil {
		return nil, err
	}
	var shown []string
	for _, e := range entries {
		list, err := fieldsOf(e)
		if err != nil {
			return nil, err
		}
		for i, f := range list {
			if f.name == "created" {
				list[i].value = showCreated(f.value, began)
			}
		}
		shown = append(shown, string(object(list)))
	}
	return json.RawMessage("[" + strings.Join(shown, ",") + "]"), nil
}

// spread writes a config with one field a line, and one history entry a line.
func spread(b *bytes.Buffer, raw json.RawMessage, depth int) error {
	indent := "\n" + strings.Repeat(" ", depth)
	list, err := fieldsOf(raw)
	if err != nil {
		return err
	}
	b.WriteByte('{')
	for i, f := range list {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(indent + " " + compact(f.name) + ": ")
		switch {
		case depth == 1 && f.name == "config" && string(f.value) != "null":
			err = spread(b, f.value, depth+1)
		case depth == 1 && f.name == "history" && string(f.value) != "null":
			err = spreadList(b, f.value, indent+" ")
		default:
			err = json.Compact(b, f.value)
		}
		if err != nil {
			return err
		}
	}
	b.WriteString(indent + "}")
	return nil
}

func spreadList(b *bytes.Buffer, raw json.RawMessage, indent string) error {
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil {
		return err
	}
	b.WriteByte('[')
	for i, v := range list {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(indent + " ")
		if err := json.Compact(b, v); err != nil {
			return err
		}
	}
	b.WriteString(indent + "]")
	return nil
}
