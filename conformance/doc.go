// Package conformance holds whole builds that are made by whittle and by a
// real peer, dockerd's BuildKit, and compared field by field and file by file.
//
// What a build must give is what the peer gave, never what whittle gave: there
// are no golden files here. Each difference that is accepted is one line with a
// reason in differences.txt; a line that no build needs is an error. The cases
// are testdata/cases/*.txtar; readCase says how they are written.
//
// It promises nothing to importers: it has only tests.
package conformance
