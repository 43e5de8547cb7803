package main

import (
	"encoding/csv"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle"
)

// keepFromDumps keeps the memory of a process that holds secrets or keys out of
// core files, and from other processes of the same user.
func keepFromDumps(r *whittle.Request) error {
	if len(r.Secrets) == 0 && len(r.SSH) == 0 {
		return nil
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("secrets: keeping them out of core files: %w", err)
	}
	return nil
}

const secretForm = "for example --secret id=token,src=token.txt or --secret id=token,env=TOKEN"

// parseSecrets reads docker's --secret. Of one id the last one counts.
func (p *program) parseSecrets(list []string) ([]whittle.Secret, error) {
	var out []whittle.Secret
	at := map[string]int{}
	for _, text := range list {
		s, err := p.parseSecret(text)
		if err != nil {
			return nil, err
		}
		if i, ok := at[s.ID]; ok {
			out[i] = s
			continue
		}
		at[s.ID] = len(out)
		out = append(out, s)
	}
	return out, nil
}

// parseSecret reads id=ID[,src=FILE|,env=NAME][,type=file|env]. With neither a
// file nor a variable the value is that of the variable called ID or, when
// there is none, of the file of that name.
func (p *program) parseSecret(text string) (whittle.Secret, error) {
	var s whittle.Secret
	bad := func(format string, args ...any) (whittle.Secret, error) {
		return s, &usageError{fmt.Errorf("--secret %q: %s", text, fmt.Sprintf(format, args...)), secretForm}
	}
	fields, err := csvFields(text)
	if err != nil {
		return bad("want KEY=VALUE,KEY=VALUE…")
	}
	var kind, env string
	for _, field := range fields {
		key, value, ok := strings.Cut(field, "=")
		if !ok {
			return bad("invalid field '%s' must be a key=value pair", field)
		}
		switch key = strings.ToLower(key); key {
		case "type":
			if value != "file" && value != "env" {
				return bad("unsupported secret type %q", value)
			}
			kind = value
		case "id":
			s.ID = value
		case "source", "src":
			s.File = value
		case "env":
			env = value
		default:
			return bad("unexpected key '%s' in '%s'", key, field)
		}
	}
	if s.ID == "" {
		return bad("secret missing ID")
	}
	if kind == "env" && env == "" {
		env, s.File = s.File, ""
	}
	if env == "" && s.File == "" {
		s.File = s.ID
		if _, ok := lookup(p.environ(), s.ID); ok || kind == "env" {
			env = s.ID
		}
	}
	if env != "" {
		value, _ := lookup(p.environ(), env)
		s.File, s.Value = "", []byte(value)
	}
	return s, nil
}

// csvFields splits a flag's value at commas; a field in double quotes may have
// some.
func csvFields(text string) ([]string, error) {
	return csv.NewReader(strings.NewReader(text)).Read()
}
