package container

import "testing"

func TestParseSizeReadsDockersSizes(t *testing.T) {
	for in, want := range map[string][2]int64{
		"64m": {64 << 20, 64e6}, "1g": {1 << 30, 1e9}, "1.5GB": {3 << 29, 15e8}, "2KiB": {2048, 2048}, "512": {512, 512},
		"512b": {512, 512}, "0": {0, 0}, "10 GB": {10 << 30, 10e9}, "1t": {1 << 40, 1e12}, "1MiB": {1 << 20, 1 << 20},
	} {
		for i, kilo := range []int64{KiloMemory, KiloDisk} {
			if got, err := ParseSize(in, kilo); got != want[i] || err != nil {
				t.Errorf("%q with a k of %d: got %d, %v, want %d", in, kilo, got, err, want[i])
			}
		}
	}
	for _, in := range []string{"", "b", "m", "x", "-1m", "1e99", "1e30", "1e3", "NaN", "1q", "inf", "Infinity", "0x10", "1_0", "+1", "5i", "5ib", "1.2.3", "9999999t", "kk"} {
		if got, err := ParseSize(in, KiloMemory); err == nil {
			t.Errorf("%q: got %d", in, got)
		}
	}
}
