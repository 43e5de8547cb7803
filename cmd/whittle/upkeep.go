package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/whittle-build/whittle"
	"github.com/whittle-build/whittle/internal/store"
)

func (p *program) duCommand() *cobra.Command {
	return &cobra.Command{
		Use: "du", Short: "Show what the store holds and how much of it could go",
		Args: args(0, 0, "no operand"),
		RunE: func(c *cobra.Command, _ []string) error {
			return p.withStore(func(w *whittle.Whittle) error {
				list, err := w.Usage(c.Context())
				if err != nil {
					return err
				}
				return whittle.WriteUsage(p.stdout, list)
			})
		},
	}
}

func (p *program) fsckCommand() *cobra.Command {
	var repair bool
	c := &cobra.Command{
		Use: "fsck [flags]", Short: "Check every promise of the store",
		Args: args(0, 0, "no operand"),
		RunE: func(c *cobra.Command, _ []string) error {
			return p.withStore(func(w *whittle.Whittle) error {
				began := time.Now()
				problems, err := w.Fsck(c.Context(), repair)
				if err != nil {
					return err
				}
				return p.writeProblems(problems, time.Since(began))
			})
		},
	}
	c.Flags().BoolVar(&repair, "repair", false, "remove what is damaged, so that a build makes it again")
	return c
}

// writeProblems prints what fsck found; what is not repaired makes it fail.
// The leftovers of killed processes are told and are no problem.
func (p *program) writeProblems(problems []store.Problem, took time.Duration) error {
	count, open := 0, 0
	for _, x := range problems {
		if _, err := fmt.Fprintln(p.stdout, x); err != nil {
			return err
		}
		if x.Leftover() {
			continue
		}
		count++
		if !x.Repaired {
			open++
		}
	}
	if _, err := fmt.Fprintf(p.stdout, "%d problems, %d open (%.1fs)\n", count, open, took.Seconds()); err != nil {
		return err
	}
	if open > 0 {
		return codeError(exitFailed)
	}
	return nil
}
