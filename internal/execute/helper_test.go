package execute

import (
	"syscall"

	"github.com/whittle-build/whittle/internal/config"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/plan"
)

// baseConfig is the config of "FROM base".
func baseConfig() *plan.Base {
	return &plan.Base{ID: digest.Of([]byte("base")), Config: &config.Image{OS: "linux", Architecture: "amd64",
		Config: config.Config{Env: []string{"PATH=/bin"}}}}
}

func setUmask(mask int) (old int) { return syscall.Umask(mask) }
