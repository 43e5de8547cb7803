package sbom

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// licensing makes of what packages say of their licenses what SPDX takes.
type licensing struct {
	ids, exceptions map[string]string // as the list spells them, by their lower case
	said            map[string]string // expressions, by what packages say
	refs            []extracted
}

// extracted is a license that is not in SPDX's list.
type extracted struct {
	ID      string `json:"licenseId"`
	Text    string `json:"extractedText"`
	Name    string `json:"name"`
	Comment string `json:"comment"`
}

func newLicensing() *licensing {
	return &licensing{ids: spelling(licenseIDs), exceptions: spelling(licenseExceptions), said: map[string]string{}}
}

func spelling(list string) map[string]string {
	m := map[string]string{}
	for id := range strings.FieldsSeq(list) {
		m[strings.ToLower(id)] = id
	}
	return m
}

// declared is text as an expression of SPDX: itself where it is one, and else a reference
// to it, which the document then has to explain.
func (l *licensing) declared(text string) string {
	switch text = strings.TrimSpace(text); text {
	case "", unsaid, "UNKNOWN": // the last is Python's, of packages that say nothing
		return unsaid
	}
	if known, ok := l.said[text]; ok {
		return known
	}
	as, ok := l.expression(text)
	if !ok {
		sum := sha256.Sum256([]byte(text))
		as = "LicenseRef-" + hex.EncodeToString(sum[:8])
		l.refs = append(l.refs, extracted{ID: as, Text: text, Name: text, Comment: "what the package says of its license"})
	}
	l.said[text] = as
	return as
}

// maxExpression is longer than any license expression: each parenthesis in one is a call.
const maxExpression = 4 << 10

// expression reads text as a license expression (SPDX 2.3, annex D), and spells the
// identifiers in it as the list does.
func (l *licensing) expression(text string) (string, bool) {
	if len(text) > maxExpression {
		return "", false
	}
	x := expression{licensing: l, words: strings.Fields(strings.NewReplacer("(", " ( ", ")", " ) ").Replace(text))}
	if !x.several() || x.at < len(x.words) {
		return "", false
	}
	return strings.NewReplacer("( ", "(", " )", ")").Replace(strings.Join(x.words, " ")), true
}

// expression is one that is being read.
type expression struct {
	*licensing
	words []string
	at    int
}

func (x *expression) next() string {
	if x.at < len(x.words) {
		return x.words[x.at]
	}
	return ""
}

// several reads licenses that AND and OR join.
func (x *expression) several() bool {
	for x.one() {
		if join := x.next(); join != "AND" && join != "OR" {
			return true
		}
		x.at++
	}
	return false
}

// one reads a license, with its exception, or several in parentheses.
func (x *expression) one() bool {
	if x.next() == "(" {
		x.at++
		if !x.several() || x.next() != ")" {
			return false
		}
		x.at++
		return true
	}
	if !x.spell(x.ids, true) {
		return false
	}
	if x.next() != "WITH" {
		return true
	}
	x.at++
	return x.spell(x.exceptions, false)
}

// spell reads an identifier that is in list. Where later versions may be meant too, a + says so.
func (x *expression) spell(list map[string]string, later bool) bool {
	word := x.next()
	id, ok := list[strings.ToLower(word)]
	if base, plus := strings.CutSuffix(word, "+"); plus && later && !ok {
		id, ok = list[strings.ToLower(base)]
		id += "+"
	}
	if ok {
		x.words[x.at] = id
		x.at++
	}
	return ok
}
