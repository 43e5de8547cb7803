package plan

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/whittle-build/whittle/internal/dockerfile"
)

// portCost is about what one port takes in the config and its history.
const portCost = 64

func (st *state) expose(c *dockerfile.Expose) {
	var ports []string
	for _, p := range c.Ports {
		words, err := st.p.x.Words(p, st.vars)
		if err != nil {
			st.fail(err.Error(), expansionHint(err))
			return
		}
		for _, w := range words {
			some, err := st.ports(w)
			if err != nil {
				hint := "write a port from 0 to 65535, or a range 8000-8010, with /udp or /sctp after it if it is not tcp"
				if strings.HasPrefix(w, "#") {
					hint = "a comment needs a line of its own"
				}
				st.fail(err.Error(), hint)
				return
			}
			ports = append(ports, some...)
		}
	}
	if st.c.Config.ExposedPorts == nil {
		st.c.Config.ExposedPorts = map[string]struct{}{}
	}
	for _, p := range ports {
		st.c.Config.ExposedPorts[p] = struct{}{}
	}
	st.commit(fmt.Sprintf("EXPOSE %v", ports), false)
}

// ports reads [ip:][host:]port[-port][/proto]. All but the container's ports
// has no meaning; the reference lets it pass, and so does this.
func (st *state) ports(raw string) ([]string, error) {
	ip, host, port := splitPort(raw)
	port, proto, _ := strings.Cut(port, "/")
	if port == "" {
		return nil, fmt.Errorf("invalid port: %q: no port specified", raw)
	}
	switch strings.ToLower(proto) {
	case "":
		proto = "tcp"
	case "tcp", "udp", "sctp":
	default:
		return nil, fmt.Errorf("invalid port: %q: invalid proto: %s", raw, proto)
	}
	if proto != strings.ToLower(proto) {
		st.report(dockerfile.ExposeProtoCasing(raw))
	}
	if ip != "" || host != "" {
		st.report(dockerfile.ExposeInvalidFormat(raw))
	}
	if ip != "" {
		if _, err := netip.ParseAddr(strings.Trim(ip, "[]")); err != nil {
			return nil, errors.New("invalid IP address: " + ip)
		}
	}
	first, last, err := portRange(port)
	if err != nil {
		return nil, errors.New("invalid containerPort: " + port)
	}
	if host != "" {
		from, to, err := portRange(host)
		if err != nil {
			return nil, errors.New("invalid hostPort: " + host)
		}
		if last-first != to-from && first != last {
			return nil, fmt.Errorf("invalid ranges specified for container and host Ports: %s and %s", port, host)
		}
	}
	if err := st.p.x.Spend(portCost * (last - first + 1)); err != nil {
		return nil, errors.New("EXPOSE: too many ports in all")
	}
	out := make([]string, 0, last-first+1)
	for n := first; n <= last; n++ {
		out = append(out, strconv.Itoa(n)+"/"+strings.ToLower(proto))
	}
	return out, nil
}

func splitPort(raw string) (ip, host, port string) {
	parts := strings.Split(raw, ":")
	n := len(parts)
	switch n {
	case 1:
		return "", "", raw
	case 2:
		return "", parts[0], parts[1]
	}
	return strings.Join(parts[:n-2], ":"), parts[n-2], parts[n-1]
}

func portRange(s string) (first, last int, err error) {
	from, to, ok := strings.Cut(s, "-")
	first, err = portNumber(from)
	if err != nil || !ok {
		return first, first, err
	}
	last, err = portNumber(to)
	if err == nil && last < first {
		err = errors.New("range ends before it begins")
	}
	return first, last, err
}

func portNumber(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, err
	}
	if n < 0 || n > 65535 {
		return 0, errors.New("out of range")
	}
	return n, nil
}
