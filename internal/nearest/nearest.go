// Package nearest owns the question how much one name is like another, which
// is behind every "did you mean". It knows nothing of what is named; what is
// near enough is for its callers to say.
package nearest

// Distance counts the letters to insert, delete, change or swap with the next
// one to make b of a. Names of more than 128 letters are far from everything:
// their distance is not worth its cost.
func Distance(a, b string) int {
	const long = 128
	if len(a) > long || len(b) > long {
		return long
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			change := last[j]
			if a[i] != b[j] {
				change++
			}
			row[j+1] = min(change, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
