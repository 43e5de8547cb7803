package main

import (
	"github.com/whittle-build/whittle"
	"github.com/whittle-build/whittle/internal/dockerfile"
)

// SARIF 2.1.0 (OASIS), the part of it that a check needs: what code hosts and
// editors read.

type sarifLog struct {
	Schema  string     `json:"$schema"`
	Version string     `json:"version"`
	Runs    []sarifRun `json:"runs"`
}

type sarifRun struct {
	Tool struct {
		Driver sarifDriver `json:"driver"`
	} `json:"tool"`
	Artifacts []sarifArtifact `json:"artifacts"`
	Results   []sarifResult   `json:"results"`
}

type sarifDriver struct {
	Name           string      `json:"name"`
	Version        string      `json:"version"`
	InformationURI string      `json:"informationUri"`
	Rules          []sarifRule `json:"rules"`
}

type sarifRule struct {
	ID      string     `json:"id"`
	About   *sarifText `json:"shortDescription,omitempty"`
	HelpURI string     `json:"helpUri,omitempty"`
	Default struct {
		Level string `json:"level"`
	} `json:"defaultConfiguration"`
}

type sarifText struct {
	Text string `json:"text"`
}

type sarifFile struct {
	URI   string `json:"uri"`
	Index *int   `json:"index,omitempty"`
}

type sarifArtifact struct {
	Location sarifFile `json:"location"`
	Language string    `json:"sourceLanguage"`
}

type sarifResult struct {
	Rule      string          `json:"ruleId"`
	RuleIndex int             `json:"ruleIndex"`
	Level     string          `json:"level"`
	Message   sarifText       `json:"message"`
	Locations []sarifLocation `json:"locations"`
}

type sarifLocation struct {
	Physical struct {
		Artifact sarifFile    `json:"artifactLocation"`
		Region   *sarifRegion `json:"region,omitempty"`
	} `json:"physicalLocation"`
}

type sarifRegion struct {
	StartLine int        `json:"startLine"`
	EndLine   int        `json:"endLine"`
	Snippet   *sarifText `json:"snippet,omitempty"`
}

const (
	sarifSchema  = "https://json.schemastore.org/sarif-2.1.0.json"
	sarifAbout   = "https://github.com/whittle-build/whittle"
	mistakeRule  = "BuildError"
	mistakeAbout = "The Dockerfile cannot be built"
)

// sarif is what a check found: mistakes are errors, the reference's rules
// warnings, and whittle's own rules notes.
func sarif(got *whittle.Checked, version string) sarifLog {
	run := sarifRun{
		Artifacts: []sarifArtifact{{sarifFile{URI: fileURI(got.File)}, "dockerfile"}},
		Results:   []sarifResult{},
	}
	d := &run.Tool.Driver
	*d = sarifDriver{Name: "whittle", Version: version, InformationURI: sarifAbout, Rules: []sarifRule{}}
	seen := map[string]int{}
	add := func(w dockerfile.Warning, level string) {
		i, known := seen[w.Rule]
		if !known {
			i = len(d.Rules)
			seen[w.Rule] = i
			rule := sarifRule{ID: w.Rule, HelpURI: w.URL}
			if w.About != "" {
				rule.About = &sarifText{w.About}
			}
			rule.Default.Level = level
			d.Rules = append(d.Rules, rule)
		}
		run.Results = append(run.Results, sarifOne(got, w, level, i))
	}
	for _, m := range got.Mistakes {
		add(dockerfile.Warning{Rule: mistakeRule, About: mistakeAbout, Line: m.Line, EndLine: m.EndLine, Text: m.Text, Msg: m.Msg, Hint: m.Hint}, "error")
	}
	for _, w := range got.Warnings {
		if w.Own {
			add(w, "note")
			continue
		}
		add(w, "warning")
	}
	return sarifLog{Schema: sarifSchema, Version: "2.1.0", Runs: []sarifRun{run}}
}

func sarifOne(got *whittle.Checked, w dockerfile.Warning, level string, rule int) sarifResult {
	text := w.Msg
	if w.Hint != "" {
		text += "\n" + w.Hint
	}
	first := 0
	at := sarifLocation{}
	at.Physical.Artifact = sarifFile{URI: fileURI(got.File), Index: &first}
	if w.Line > 0 {
		at.Physical.Region = &sarifRegion{StartLine: w.Line, EndLine: max(w.Line, w.EndLine)}
		if w.Text != "" {
			at.Physical.Region.Snippet = &sarifText{w.Text}
		}
	}
	return sarifResult{Rule: w.Rule, RuleIndex: rule, Level: level, Message: sarifText{text}, Locations: []sarifLocation{at}}
}
