package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
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
// now stay as they are. Figures beside other builders, or of other sizes, are in
// no table with these.
func (s *suite) recorded() (*table, error) {
	t := &table{append(rows(), growthRows()...), map[string]result{}}
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
	if now := s.report(nil); old.Quick != now.Quick || !maps.Equal(old.Builders, now.Builders) {
		return t, nil
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

// done says whether a row need not be measured again with this binary. One that
// failed, or in which whittle did, must.
func (s *suite) done(res result) bool {
	for i := range res.figures {
		if f := &res.figures[i]; f.Builder == "all" || own(f.Builder) && f.Why != "" && !f.cannot() {
			return false
		}
	}
	return res.origin.Binary == s.origin.Binary && len(res.figures) > 0
}
