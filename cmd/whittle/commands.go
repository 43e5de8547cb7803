package main

import (
	"github.com/spf13/cobra"
)

// addCommands adds every verb that stands at the top, in groups.
func (p *program) addCommands(root *cobra.Command) {
	groups := []struct {
		title string
		verbs []*cobra.Command
	}{
		{"Images:", []*cobra.Command{
			p.buildCommand(), p.shellCommand(), p.verifyCommand(), p.imagesCommand(), p.inspectCommand(), p.historyCommand(), p.tagCommand(), p.rmiCommand(),
			p.importCommand(), p.saveCommand(), p.loadCommand(), p.pullCommand(), p.pushCommand(), p.loginCommand(), p.logoutCommand(),
		}},
		{"Containers:", []*cobra.Command{
			p.runCommand(), p.createCommand(), p.startCommand(), p.execCommand(), p.cpCommand(), p.rmCommand(),
			p.psCommand(), p.logsCommand(), p.stopCommand(), p.killCommand(), p.restartCommand(), p.waitCommand(),
			p.portCommand(), p.exportCommand(), p.monitorCommand(),
		}},
		{"The store:", []*cobra.Command{
			p.infoCommand(), p.duCommand(), p.pruneCommand(), p.cacheCommand(), p.fsckCommand(),
		}},
	}
	for _, g := range groups {
		root.AddGroup(&cobra.Group{ID: g.title, Title: g.title})
		for _, c := range g.verbs {
			c.GroupID = g.title
			root.AddCommand(c)
		}
	}
	root.AddCommand(p.versionCommand())
}

// addAliases adds the long spelling of docker's verbs: docker image ls is
// docker images. They are hidden under the name whittle.
func (p *program) addAliases(root *cobra.Command) {
	groups := []struct {
		name, short string
		verbs       map[string]func() *cobra.Command
	}{
		{"image", "Manage images", map[string]func() *cobra.Command{
			"build": p.buildCommand, "ls": p.imagesCommand, "inspect": p.inspectCommand, "history": p.historyCommand,
			"tag": p.tagCommand, "rm": p.rmiCommand, "import": p.importCommand, "save": p.saveCommand,
			"load": p.loadCommand, "pull": p.pullCommand, "push": p.pushCommand,
			"prune": p.imagePruneCommand,
		}},
		{"container", "Manage containers", map[string]func() *cobra.Command{
			"run": p.runCommand, "create": p.createCommand, "start": p.startCommand, "exec": p.execCommand,
			"cp": p.cpCommand, "rm": p.rmCommand, "ls": p.psCommand, "logs": p.logsCommand, "stop": p.stopCommand,
			"inspect": p.inspectCommand, "list": p.psCommand, "ps": p.psCommand, "kill": p.killCommand,
			"wait": p.waitCommand, "restart": p.restartCommand, "port": p.portCommand, "export": p.exportCommand,
			"prune": p.containerPruneCommand,
		}},
		{"builder", "Manage builds", map[string]func() *cobra.Command{"build": p.buildCommand, "prune": p.cachePruneCommand}},
		{"buildx", "Manage builds", map[string]func() *cobra.Command{"build": p.buildCommand, "prune": p.cachePruneCommand, "du": p.duCommand}},
		{"system", "Manage the store", map[string]func() *cobra.Command{"df": p.duCommand, "prune": p.systemPruneCommand, "info": p.infoCommand}},
	}
	for _, g := range groups {
		c := &cobra.Command{Use: g.name, Short: g.short, Hidden: !p.docker, Args: cobra.ArbitraryArgs,
			RunE: func(c *cobra.Command, args []string) error {
				if len(args) == 0 {
					return c.Help()
				}
				return p.unknown(c, args[0])
			}}
		for name, make := range g.verbs {
			sub := make()
			sub.Use = rename(sub.Use, name)
			c.AddCommand(sub)
		}
		root.AddCommand(c)
	}
}

// rename replaces the first word of a usage line.
func rename(use, name string) string {
	for i := range len(use) {
		if use[i] == ' ' {
			return name + use[i:]
		}
	}
	return name
}
