package plan

// circles numbers the stages so that two have one number when each needs the
// other, on any way. It is made in one pass over all that stages need (after
// Kosaraju), since a file may have thousands of stages that copy from below.
func (p *planner) circles() map[*stage]int {
	needs, neededBy := map[*stage][]*stage{}, map[*stage][]*stage{}
	for _, s := range p.stages {
		needs[s] = s.needs()
		for _, other := range needs[s] {
			neededBy[other] = append(neededBy[other], s)
		}
	}
	order := finished(p.stages, needs)
	number := map[*stage]int{}
	for i := len(order) - 1; i >= 0; i-- {
		if _, known := number[order[i]]; known {
			continue
		}
		todo := []*stage{order[i]}
		for len(todo) > 0 {
			s := todo[len(todo)-1]
			todo = todo[:len(todo)-1]
			if _, known := number[s]; known {
				continue
			}
			number[s] = i
			todo = append(todo, neededBy[s]...)
		}
	}
	return number
}

// finished lists stages, each after all that can be reached from it and was not
// listed before.
func finished(stages []*stage, needs map[*stage][]*stage) []*stage {
	type visit struct {
		s    *stage
		next int // of its needs
	}
	seen := map[*stage]bool{}
	var out []*stage
	for _, first := range stages {
		if seen[first] {
			continue
		}
		seen[first] = true
		path := []visit{{s: first}}
		for len(path) > 0 {
			v := &path[len(path)-1]
			if v.next == len(needs[v.s]) {
				out = append(out, v.s)
				path = path[:len(path)-1]
				continue
			}
			other := needs[v.s][v.next]
			v.next++
			if !seen[other] {
				seen[other] = true
				path = append(path, visit{s: other})
			}
		}
	}
	return out
}
