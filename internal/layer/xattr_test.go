package layer

import (
	"syscall"
)

func setxattr(p, name, value string) error { return syscall.Setxattr(p, name, []byte(value), 0) }

func listxattr(p string, b []byte) (int, error) { return syscall.Listxattr(p, b) }
