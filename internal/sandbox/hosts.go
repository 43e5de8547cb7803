package sandbox

import (
	"os"
	"strings"
)

// hostsFile is the generated /etc/hosts.
func hostsFile(hostname string, extra []string) string {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost " + hostname + "\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	for _, line := range extra {
		b.WriteString(line + "\n")
	}
	return b.String()
}

// publicDNS is used when the host names no server that a sandbox can reach,
// as Docker does.
const publicDNS = "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"

// maxResolvConf is far more than the three servers that resolvers read.
const maxResolvConf = 64 << 10

// hostResolvConf is the host's /etc/resolv.conf.
func hostResolvConf() string {
	b, err := os.ReadFile("/etc/resolv.conf")
	if err != nil || len(b) > maxResolvConf || !strings.Contains(string(b), "nameserver") {
		return publicDNS
	}
	return string(b)
}
