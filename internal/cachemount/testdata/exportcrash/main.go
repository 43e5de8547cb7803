// Command exportcrash exports the folder that it is given into another one.
// Built with the tag crashpoints it dies where WHITTLE_CRASH says.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/whittle-build/whittle/internal/cachemount"
)

func main() {
	src := &cachemount.Source{
		Identity: cachemount.Identity{ID: "/cache"},
		Hold: func(context.Context) (string, func() error, error) {
			return os.Args[1], func() error { return nil }, nil
		},
	}
	if _, err := cachemount.Export(context.Background(), os.Args[2], []*cachemount.Source{src}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
