package main

import (
	"reflect"
	"testing"

	"github.com/spf13/pflag"

	"github.com/whittle-build/whittle"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/sandbox"
)

// TestFlagsOfStepsReachTheRequest gives every flag a value of its own.
func TestFlagsOfStepsReachTheRequest(t *testing.T) {
	var f stepFlags
	fl := pflag.NewFlagSet("build", pflag.ContinueOnError)
	f.add(fl)
	if err := fl.Parse([]string{
		"--allow", "network.host", "--ulimit", "nofile=1:2", "--shm-size", "3k", "--cgroup-parent", "group",
		"-m", "4m", "--memory-swap", "5m", "-c", "6", "--cpu-period", "7000", "--cpu-quota", "8000",
		"--cpuset-cpus", "0-9,11", "--cpuset-mems", "10", "--pids-limit", "14",
		"--secret", "id=a,src=12", "--ssh", "b=13",
	}); err != nil {
		t.Fatal(err)
	}
	given := 0
	fl.Visit(func(*pflag.Flag) { given++ })
	all := 0
	fl.VisitAll(func(*pflag.Flag) { all++ })
	if given != all-1 { // --cpus, which says what two others say
		t.Errorf("%d of %d flags have a value here", given, all)
	}
	var r whittle.Request
	if err := new(program).stepOptions(&f, &r); err != nil {
		t.Fatal(err)
	}
	var want whittle.Request
	want.Allow = []string{"network.host"}
	want.Ulimits = []plan.Ulimit{{Name: "nofile", Soft: 1, Hard: 2}}
	want.ShmSize, want.CgroupParent = 3<<10, "group"
	want.Resources = sandbox.Resources{Memory: 4 << 20, MemorySwap: 5 << 20, CPUShares: 6, CPUPeriod: 7000, CPUQuota: 8000, CPUs: "0-9,11", Mems: "10", Pids: 14}
	want.Secrets = []whittle.Secret{{ID: "a", File: "12"}}
	want.SSH = []whittle.SSH{{ID: "b", Paths: []string{"13"}}}
	if !reflect.DeepEqual(r, want) {
		t.Errorf("got  %+v\nwant %+v", r, want)
	}
}

func TestCPUsIsAShareOfEachPeriod(t *testing.T) {
	for text, want := range map[string]int64{"1.5": 150_000, "0.01": 1000, "2": 200_000, "": 0, "x": -1, "0": -1, "-1": -1, "NaN": -1, "1e9": -1} {
		var r sandbox.Resources
		err := wholeCPUs(text, &r)
		if want < 0 != (err != nil) || want > 0 && (r.CPUQuota != want || r.CPUPeriod != 100_000) {
			t.Errorf("--cpus %q: %+v, %v", text, r, err)
		}
	}
	if err := wholeCPUs("1", &sandbox.Resources{CPUPeriod: 5000}); err == nil {
		t.Error("--cpus beside --cpu-period")
	}
}
