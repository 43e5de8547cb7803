package sbom

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
)

// Document is an inventory as SPDX 2.3 has it (spdx.github.io/spdx-spec/v2.3).
type Document struct {
	Version       string         `json:"spdxVersion"`
	License       string         `json:"dataLicense"`
	ID            string         `json:"SPDXID"`
	Name          string         `json:"name"`
	Namespace     string         `json:"documentNamespace"`
	Creation      creation       `json:"creationInfo"`
	Packages      []spdxPackage  `json:"packages"`
	Files         []spdxFile     `json:"files,omitempty"`
	Licenses      []extracted    `json:"hasExtractedLicensingInfos,omitempty"`
	Relationships []relationship `json:"relationships"`
	Comment       string         `json:"comment,omitempty"`
}

type creation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type spdxPackage struct {
	ID        string      `json:"SPDXID"`
	Name      string      `json:"name"`
	Version   string      `json:"versionInfo,omitempty"`
	Location  string      `json:"downloadLocation"`
	Analyzed  bool        `json:"filesAnalyzed"`
	Concluded string      `json:"licenseConcluded"`
	Declared  string      `json:"licenseDeclared"`
	Copyright string      `json:"copyrightText"`
	Source    string      `json:"sourceInfo,omitempty"`
	Comment   string      `json:"comment,omitempty"`
	Refs      []reference `json:"externalRefs,omitempty"`
	Purpose   string      `json:"primaryPackagePurpose,omitempty"`
}

type reference struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type spdxFile struct {
	ID        string     `json:"SPDXID"`
	Name      string     `json:"fileName"`
	Checksums []checksum `json:"checksums"`
	Concluded string     `json:"licenseConcluded"`
	Copyright string     `json:"copyrightText"`
	Comment   string     `json:"comment,omitempty"`
}

type checksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type relationship struct {
	From string `json:"spdxElementId"`
	Kind string `json:"relationshipType"`
	To   string `json:"relatedSpdxElement"`
}

const unsaid = "NOASSERTION"

// SPDX writes an inventory down. name is what it is of, about stands for exactly that, and
// origin tells of a file which stage it is from. The same inventory gives the same document.
func (v *Inventory) SPDX(name string, about digest.Digest, created time.Time, origin func(path string) string) Document {
	const document, root = "SPDXRef-DOCUMENT", "SPDXRef-image"
	d := Document{Version: "SPDX-2.3", License: "CC0-1.0", ID: document, Name: name,
		Namespace: "https://github.com/whittle-build/whittle/spdx/" + about.Hex(),
		Creation:  creation{created.UTC().Format(time.RFC3339), []string{"Tool: whittle"}},
		Packages: []spdxPackage{{ID: root, Name: name, Location: unsaid, Concluded: unsaid, Declared: unsaid, Copyright: unsaid,
			Purpose: "CONTAINER", Comment: v.System.Name}},
		Relationships: []relationship{{document, "DESCRIBES", root}}}
	files := map[string]string{}
	for i, f := range v.Files {
		one := spdxFile{ID: fmt.Sprintf("SPDXRef-file-%d", i+1), Name: "./" + f.Path, Concluded: unsaid, Copyright: unsaid,
			Checksums: []checksum{{"SHA1", hex.EncodeToString(f.SHA1[:])}, {"SHA256", hex.EncodeToString(f.SHA256[:])}}}
		if from := origin(f.Path); from != "" {
			one.Comment = "from " + from
		}
		files[f.Path] = one.ID
		d.Files = append(d.Files, one)
		d.Relationships = append(d.Relationships, relationship{root, "CONTAINS", one.ID})
	}
	licenses := newLicensing()
	for i, p := range v.Packages {
		one := spdxPackage{ID: fmt.Sprintf("SPDXRef-package-%d", i+1), Name: p.Name, Version: p.Version, Location: unsaid, Concluded: unsaid,
			Declared: licenses.declared(p.License), Copyright: unsaid, Source: "found in /" + p.Found, Refs: []reference{{"PACKAGE-MANAGER", "purl", p.URL}}}
		if from := origin(p.Found); from != "" {
			one.Comment = "from " + from
		}
		d.Packages = append(d.Packages, one)
		d.Relationships = append(d.Relationships, relationship{root, "CONTAINS", one.ID}, relationship{one.ID, "OTHER", files[p.Found]})
	}
	d.Licenses = licenses.refs
	if gaps := v.Gaps(); gaps != nil {
		d.Comment = "Incomplete: packages may be missing, for not all that names them could be read.\n" + strings.Join(gaps, "\n")
	}
	d.Relationships = slices.DeleteFunc(d.Relationships, func(r relationship) bool { return r.To == "" })
	return d
}
