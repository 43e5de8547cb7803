package main

import (
	"cmp"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/whittle-build/whittle"
	"github.com/whittle-build/whittle/internal/image"
)

// attestOptions reads --provenance and --sbom, as docker writes them too, --attest, which
// says the same and counts before them, and the key of --sign.
func (f *buildFlags) attestOptions() (err error) {
	if err := f.attestation("provenance", "--provenance="+f.provenance, f.provenance); err != nil {
		return err
	}
	if err := f.attestation("sbom", "--sbom="+f.sbom, f.sbom); err != nil {
		return err
	}
	for _, text := range f.attests {
		if err := f.attestOption(text); err != nil {
			return err
		}
	}
	if f.signKey == "" {
		return nil
	}
	if f.request.SignKey, err = os.ReadFile(f.signKey); err != nil {
		return &usageError{fmt.Errorf("--sign: %w", err), "name the PEM file of a private key"}
	}
	return nil
}

// attestOption reads one --attest.
func (f *buildFlags) attestOption(text string) error {
	kind, rest := "", []string{}
	fields, err := csvFields(text)
	if err != nil && text != "" {
		return &usageError{fmt.Errorf("--attest %s: %w", text, err), ""}
	}
	for i, field := range fields {
		if t, ok := strings.CutPrefix(field, "type="); ok || i == 0 && !strings.Contains(t, "=") {
			kind = t
		} else {
			rest = append(rest, field)
		}
	}
	if kind != "provenance" && kind != "sbom" {
		return &usageError{fmt.Errorf("--attest %q: there are type=provenance and type=sbom", text), "for example --attest type=provenance,mode=max"}
	}
	if len(rest) == 0 {
		rest = []string{"true"}
	}
	return f.fields(kind, "--attest "+text, rest)
}

// attestation reads what flag, as the user wrote it, says of one of the two kinds.
func (f *buildFlags) attestation(kind, flag, text string) error {
	if text == "" {
		text = "false"
	}
	fields, err := csvFields(text)
	if err != nil {
		return &usageError{fmt.Errorf("%s: %w", flag, err), ""}
	}
	return f.fields(kind, flag, fields)
}

func (f *buildFlags) fields(kind, flag string, fields []string) error {
	if kind == "provenance" {
		return f.provenanceOption(flag, fields)
	}
	return f.sbomOption(flag, fields)
}

// provenanceOption reads what flag says of the provenance.
func (f *buildFlags) provenanceOption(flag string, fields []string) error {
	mode, off := "", false
	for _, field := range fields {
		v := strings.TrimPrefix(field, "mode=")
		switch on, err := attested(v); {
		case err == nil:
			off = off || !on
		case v == whittle.MinProvenance, v == whittle.MaxProvenance:
			mode = v
		default:
			return &usageError{fmt.Errorf("%s: there are min, max and false", flag), ""}
		}
	}
	f.request.Provenance = cmp.Or(mode, whittle.MinProvenance)
	if off {
		f.request.Provenance = ""
	}
	return nil
}

// attested reads whether there is to be one at all.
func attested(field string) (bool, error) {
	if v, ok := strings.CutPrefix(field, "disabled="); ok {
		off, err := strconv.ParseBool(v)
		return !off, err
	}
	return strconv.ParseBool(field)
}

// sbomOption reads what flag says of the SBOM: whether there is one, and the generator with
// its parameters.
func (f *buildFlags) sbomOption(flag string, fields []string) error {
	r := &f.request
	r.SBOM, r.SBOMGenerator, r.SBOMParameters = true, "", nil
	for _, field := range fields {
		k, v, pair := strings.Cut(field, "=")
		switch on, err := attested(field); {
		case err == nil:
			r.SBOM = r.SBOM && on
		case k == "generator" && v != "":
			r.SBOMGenerator = v
		case pair && k != "" && k != "generator" && k != "disabled":
			if r.SBOMParameters == nil {
				r.SBOMParameters = map[string]string{}
			}
			r.SBOMParameters[k] = v
		default:
			return &usageError{fmt.Errorf("%s: there are true, false and generator=IMAGE", flag), ""}
		}
	}
	return f.checkGenerator(flag)
}

func (f *buildFlags) checkGenerator(flag string) error {
	r := &f.request
	switch {
	case !r.SBOM:
		r.SBOMGenerator, r.SBOMParameters = "", nil
		return nil
	case r.SBOMGenerator == "" && r.SBOMParameters != nil:
		return &usageError{fmt.Errorf("%s: has parameters, which are for a generator, and names none", flag), "add generator=IMAGE"}
	case r.SBOMGenerator == "":
		return nil
	}
	if _, err := image.ParseName(r.SBOMGenerator); err != nil {
		return &usageError{fmt.Errorf("%s: generator: %w", flag, err), whittle.Hint(err)}
	}
	return nil
}
