package container

import (
	"strings"
	"testing"
)

func TestParseHostReadsDockersForms(t *testing.T) {
	for in, want := range map[string][2]string{
		"db:10.0.0.7": {"db", "10.0.0.7"}, "db=10.0.0.7": {"db", "10.0.0.7"}, "six:fd00::7": {"six", "fd00::7"}, "six=fd00::7": {"six", "fd00::7"},
		"six:[fd00::7]": {"six", "fd00::7"}, "six=[fd00::7]": {"six", "fd00::7"}, "one:::1": {"one", "::1"},
		"host.docker.internal:host-gateway": {"host.docker.internal", "127.0.0.1"}, "h=host-gateway": {"h", "127.0.0.1"},
	} {
		name, ip, err := ParseHost(in, "host")
		if err != nil || name != want[0] || ip != want[1] {
			t.Errorf("%q: got %s, %s, %v", in, name, ip, err)
		}
	}
	for _, in := range []string{"", "db", "db:", ":10.0.0.7", "db:10.0.0", "a b:10.0.0.7", "a\n:10.0.0.7", "#:10.0.0.7", "db:[fd00::7", "db:fd00::7]", "db:fe80::1%eth0", "db:gateway"} {
		if name, ip, err := ParseHost(in, "host"); err == nil {
			t.Errorf("%q: got %s, %s", in, name, ip)
		}
	}
	for _, network := range []string{"none", "private"} {
		_, _, err := ParseHost("h:host-gateway", network)
		if err == nil || !strings.Contains(err.Error(), "only on the host's network") {
			t.Errorf("host-gateway with network %s: %v", network, err)
		}
		if _, _, err := ParseHost("h:10.0.0.7", network); err != nil {
			t.Errorf("network %s: %v", network, err)
		}
	}
}
