package sandbox

import (
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
)

// Conditions on arguments. The machine has 32 bits, the arguments 64: each is
// looked at in two halves.

// conditions returns ret when all of args hold, and goes on to what follows
// otherwise.
func (a abi) conditions(args []specs.LinuxSeccompArg, ret uint32) ([]bpf.Instruction, error) {
	code := leaf(ret)
	for i := len(args) - 1; i >= 0; i-- {
		c, err := a.condition(args[i], len(code))
		if err != nil {
			return nil, err
		}
		code = append(c, code...)
	}
	return code, nil
}

// step is one instruction whose jumps are not fixed yet.
type step struct {
	load     uint32 // offset of a word, when cond is 0
	mask     uint32 // for a load: what of it to keep; 0 keeps all
	compare  bool
	cond     bpf.JumpTest
	value    uint32
	yes, not outcome
}

// outcome says where a comparison goes.
type outcome uint8

const (
	next  outcome = iota // to the next step
	holds                // the condition holds: to what follows it
	fails                // it does not: over the rest of the rule
)

// condition makes the code for one argument; rest is the length of what
// follows if it holds.
func (a abi) condition(arg specs.LinuxSeccompArg, rest int) ([]bpf.Instruction, error) {
	if arg.Index > 5 {
		return nil, fmt.Errorf("argument %d: a call has six", arg.Index)
	}
	steps, err := a.steps(arg)
	if err != nil {
		return nil, err
	}
	var code []bpf.Instruction
	size := 0
	for _, s := range steps {
		size += s.size()
	}
	for _, s := range steps {
		if !s.compare {
			code = append(code, bpf.LoadAbsolute{Off: s.load, Size: 4})
			if s.mask != 0 {
				code = append(code, bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: s.mask})
			}
			continue
		}
		left := size - len(code) - 1
		skip := map[outcome]int{next: 0, holds: left, fails: left + rest}
		if left+rest > 255 {
			return nil, fmt.Errorf("argument %d: the rule is too long", arg.Index)
		}
		code = append(code, bpf.JumpIf{Cond: s.cond, Val: s.value, SkipTrue: uint8(skip[s.yes]), SkipFalse: uint8(skip[s.not])})
	}
	return code, nil
}

func (s step) size() int {
	if s.mask != 0 {
		return 2
	}
	return 1
}

// steps compares the halves of an argument, the high one first. Calls of
// 32 bits have no high half.
func (a abi) steps(arg specs.LinuxSeccompArg) ([]step, error) {
	lo := uint32(dataArgs + 8*arg.Index)
	hi := lo + 4
	v, w := uint32(arg.Value), uint32(arg.Value>>32)
	test := func(cond bpf.JumpTest, value uint32, yes, not outcome) step {
		return step{compare: true, cond: cond, value: value, yes: yes, not: not}
	}
	word := func(off uint32) step { return step{load: off} }
	var high []step
	switch arg.Op {
	case specs.OpEqualTo:
		high = []step{word(hi), test(bpf.JumpEqual, w, next, fails)}
		return a.join(high, word(lo), test(bpf.JumpEqual, v, holds, fails)), nil
	case specs.OpNotEqual:
		high = []step{word(hi), test(bpf.JumpEqual, w, next, holds)}
		return a.join(high, word(lo), test(bpf.JumpEqual, v, fails, holds)), nil
	case specs.OpGreaterThan, specs.OpGreaterEqual:
		cond := bpf.JumpGreaterThan
		if arg.Op == specs.OpGreaterEqual {
			cond = bpf.JumpGreaterOrEqual
		}
		high = []step{word(hi), test(bpf.JumpGreaterThan, w, holds, next), test(bpf.JumpEqual, w, next, fails)}
		return a.join(high, word(lo), test(cond, v, holds, fails)), nil
	case specs.OpLessThan, specs.OpLessEqual:
		cond := bpf.JumpGreaterOrEqual // x < v is not x >= v
		if arg.Op == specs.OpLessEqual {
			cond = bpf.JumpGreaterThan
		}
		high = []step{word(hi), test(bpf.JumpGreaterThan, w, fails, next), test(bpf.JumpEqual, w, next, holds)}
		return a.join(high, word(lo), test(cond, v, fails, holds)), nil
	case specs.OpMaskedEqual: // Value is the mask
		return a.masked(hi, lo, arg.Value, arg.ValueTwo), nil
	}
	return nil, fmt.Errorf("operator %q: unknown", arg.Op)
}

func (a abi) masked(hi, lo uint32, mask, want uint64) []step {
	var steps []step
	if m := uint32(mask >> 32); a.wide && m != 0 {
		steps = append(steps, step{load: hi, mask: m},
			step{compare: true, cond: bpf.JumpEqual, value: uint32(want>>32) & m, yes: next, not: fails})
	}
	m := uint32(mask)
	if m == 0 {
		return append(steps, step{load: lo}, step{compare: true, cond: bpf.JumpGreaterOrEqual, value: 0, yes: holds, not: fails})
	}
	return append(steps, step{load: lo, mask: m},
		step{compare: true, cond: bpf.JumpEqual, value: uint32(want) & m, yes: holds, not: fails})
}

func (a abi) join(high []step, low ...step) []step {
	if !a.wide {
		return low
	}
	return append(high, low...)
}
