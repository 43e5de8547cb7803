package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
)

// earlier are the rows of a run that this one goes on with, by id. There are none
// when that run had another binary, other builders or other sizes.
func (s *suite) earlier() (map[string]rowReport, error) {
	if !s.set.resume {
		return nil, nil
	}
	old, err := readReport(s.set.json)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("-resume goes on with the run that -json was written by: %w", err)
	}
	now := s.report(nil)
	if old.Binary != now.Binary || old.Quick != now.Quick || !maps.Equal(old.Builders, now.Builders) {
		return nil, nil
	}
	return old.byID(), nil
}

// result is that of the row r as it was measured earlier. One that failed, or in
// which whittle did, is measured again.
func (old rowReport) result(r row) (res result, done bool) {
	res = result{row: r, figures: old.Figures, floor: figure{Builder: "floor"}}
	if old.Floor != nil {
		res.floor = *old.Floor
	}
	for i := range old.Figures {
		if f := &old.Figures[i]; f.Builder == "all" || own(f.Builder) && f.Why != "" && !f.cannot() {
			return res, false
		}
	}
	return res, len(old.Figures) > 0
}
