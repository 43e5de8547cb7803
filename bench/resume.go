package main

import (
	"errors"
	"fmt"
	"io/fs"
)

// origin says what a row was measured with, and where: the rows of a table need
// not be of one day.
type origin struct {
	Whittle string // its version
	Binary  string // SHA-256 of it
	Machine string
}

// table is what is known of the rows, by id.
type table struct {
	rows    []row
	results map[string]result
}

// list has the results in the order of the rows.
func (t *table) list() []result {
	var out []result
	for _, r := range t.rows {
		if res, ok := t.results[r.id]; ok {
			out = append(out, res)
		}
	}
	return out
}

// recorded is the table that the file of -json has: rows that are not measured
// now stay as they are. Figures of other sizes are in no table with these.
func (s *suite) recorded() (*table, error) {
	t := &table{allRows(), map[string]result{}}
	if s.set.json == "" {
		return t, nil
	}
	old, err := readReport(s.set.json)
	if errors.Is(err, fs.ErrNotExist) {
		return t, nil
	}
	if err != nil {
		return nil, fmt.Errorf("the rows that are not measured now stay as they are: %w", err)
	}
	if old.Quick != s.set.quick {
		return nil, fmt.Errorf("%s: has figures of other sizes (-quick): remove it, or name another file with -json", s.set.json)
	}
	was := old.byID()
	for _, r := range t.rows {
		if row, ok := was[r.id]; ok {
			t.results[r.id] = row.result(r)
		}
	}
	return t, nil
}

// result is the row r as it was measured earlier. Goals are those of now.
func (old rowReport) result(r row) result {
	res := result{row: r, origin: old.Origin, figures: old.Figures, floor: figure{Builder: "floor"}}
	if old.Floor != nil {
		res.floor = *old.Floor
	}
	return res
}

// done says whether a row need not be measured again with this binary. One in
// which something failed must, and one beside builders that were set up in another
// way, or fewer.
func (s *suite) done(res result) bool {
	if res.origin.Binary != s.origin.Binary || len(res.figures) == 0 || res.floor.failed() {
		return false
	}
	for i := range res.figures {
		if f := &res.figures[i]; f.Builder == "all" || f.failed() {
			return false
		}
	}
	for _, b := range s.builders {
		if f := res.figure(b.name()); f == nil && (own(b.name()) || !res.alone) || f != nil && f.About != b.about() {
			return false
		}
	}
	return true
}
