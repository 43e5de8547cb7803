package plan

import (
	"slices"
	"strconv"
	"strings"
)

// ARGs by which a Dockerfile says what an SBOM is to have besides the target.
const (
	scanContextArg = "BUILDKIT_SBOM_SCAN_CONTEXT"
	scanStageArg   = "BUILDKIT_SBOM_SCAN_STAGE"
)

// isScanArg reports whether an ARG is one of these: it is no variable of steps.
func isScanArg(name string) bool { return name == scanContextArg || name == scanStageArg }

// scans says whether such an ARG of the stage, of one below or of the whole file asks for
// the scan in this stage: true, or a list of stages that has it.
func (st *state) scans(name string) bool {
	value, ok := st.s.scanArgs[name]
	if !ok {
		value, _ = st.p.global.Get(name)
	}
	if on, err := strconv.ParseBool(value); err == nil {
		return on
	}
	return slices.Contains(strings.Split(value, ","), st.out.Display)
}
