package container

import (
	"fmt"
	"net/netip"
	"strings"
)

// hostGateway is docker's word for the host as a container reaches it.
const hostGateway = "host-gateway"

// ParseHost reads docker's --add-host: HOST:IP or HOST=IP. Brackets may stand
// around an IPv6 address, and host-gateway for the address of the host, which
// only the host's network has.
func ParseHost(s, network string) (name, ip string, err error) {
	bad := func(msg, way string) (string, string, error) {
		return "", "", &Error{Msg: fmt.Sprintf("--add-host %q: %s", s, msg), Way: way}
	}
	const form, example = "want a host name and an IP address", "for example --add-host db:10.0.0.7"
	i := strings.IndexAny(s, ":=")
	if i <= 0 || strings.ContainsAny(s[:i], " \t\r\n#") {
		return bad(form, example)
	}
	name, ip = s[:i], s[i+1:]
	if ip == hostGateway && network != "host" {
		return bad("only on the host's network is there a way to the host", "use --network host, and leave -p out: every port of the container is then one of the host")
	}
	if ip == hostGateway {
		return name, "127.0.0.1", nil
	}
	if inner, ok := strings.CutPrefix(ip, "["); ok {
		if ip, ok = strings.CutSuffix(inner, "]"); !ok {
			return bad(form, example)
		}
	}
	addr, perr := netip.ParseAddr(ip)
	if perr != nil || addr.Zone() != "" {
		return bad(form, example)
	}
	return name, ip, nil
}
