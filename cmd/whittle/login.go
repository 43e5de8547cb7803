package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle"
	"github.com/whittle-build/whittle/internal/settings"
)

func (p *program) loginCommand() *cobra.Command {
	var user, password string
	var piped bool
	c := &cobra.Command{
		Use: "login [flags] [REGISTRY]", Short: "Keep the name and the password for a registry (docker.io when none is named)",
		Long: `Show a registry a name and a password, and keep them if it takes them: with the credential helper that docker's
config.json names (credsStore, credHelpers), or in that file, readable by you alone. docker and whittle share it.`,
		Example: "  whittle login -u me --password-stdin registry.example.com <token\n  whittle login",
		Args:    args(0, 1, "at most one registry"),
		RunE: func(c *cobra.Command, a []string) error {
			if c.Flags().Changed("password") && piped {
				return &usageError{errors.New("--password: does not go with --password-stdin"), "leave one of the two out"}
			}
			if c.Flags().Changed("password") {
				fmt.Fprintf(p.stderr, "%s: --password shows the password to whoever lists processes: --password-stdin does not\n", p.name)
			}
			server := strings.Join(a, "")
			if err := p.askWho(cmp.Or(server, "docker.io"), &user, &password, piped); err != nil {
				return err
			}
			access, err := p.access()
			if err != nil {
				return err
			}
			domain, where, err := access.Login(c.Context(), server, user, password)
			if err != nil {
				return err
			}
			fmt.Fprintf(p.stderr, "%s: %s: logged in as %s, kept by %s\n", p.name, domain, user, where)
			_, err = fmt.Fprintln(p.stdout, "Login Succeeded")
			return err
		},
	}
	c.Flags().StringVarP(&user, "username", "u", "", "`NAME` at the registry")
	c.Flags().StringVarP(&password, "password", "p", "", "`PASSWORD` or token (others may see it: --password-stdin)")
	c.Flags().BoolVar(&piped, "password-stdin", false, "take the password from standard input")
	return c
}

func (p *program) logoutCommand() *cobra.Command {
	return &cobra.Command{
		Use: "logout [REGISTRY]", Short: "Forget the name and the password for a registry (docker.io when none is named)",
		Args: args(0, 1, "at most one registry"),
		RunE: func(c *cobra.Command, a []string) error {
			access, err := p.access()
			if err != nil {
				return err
			}
			domain, had, left, err := access.Logout(c.Context(), strings.Join(a, ""))
			if err != nil {
				return err
			}
			for _, file := range left {
				fmt.Fprintf(p.stderr, "%s: %s: the credentials in %s stay, and are shown to it: whittle reads that file and does not write it\n", p.name, domain, file)
			}
			text := "Removed login credentials for " + domain
			if !had && len(left) == 0 {
				text = "Not logged in to " + domain
			} else if !had {
				return nil
			}
			_, err = fmt.Fprintln(p.stdout, text)
			return err
		},
	}
}

// access is what the flags and the environment say of registries.
func (p *program) access() (*whittle.Access, error) {
	hosts, err := p.registries()
	say := func(text string) { fmt.Fprintf(p.stderr, "%s: %s\n", p.name, text) }
	return &whittle.Access{Credentials: whittle.CredentialFiles(p.credentialEnv), Registries: hosts, CertDirs: settings.CertDirs(p.getenv), Say: say}, err
}

// registries reads whittle.toml.
func (p *program) registries() (whittle.Registries, error) {
	if named := cmp.Or(p.registryConfig, p.getenv("WHITTLE_REGISTRY_CONFIG")); named != "" {
		if _, err := os.Stat(named); err != nil {
			return nil, &usageError{fmt.Errorf("--registry-config: %w", err), "it names a file like " + settings.Name}
		}
		return settings.Read([]string{named})
	}
	return settings.Read(settings.Files(p.getenv))
}

// maxPassword bounds what is read for one.
const maxPassword = 64 << 10

// askWho completes a name and a password: from standard input as it is, or by asking
// who sits there.
func (p *program) askWho(server string, user, password *string, piped bool) error {
	if piped {
		if *user == "" {
			return &usageError{errors.New("--password-stdin: whose password is it?"), "add --username NAME"}
		}
		b, err := io.ReadAll(io.LimitReader(p.stdin, maxPassword))
		*password = strings.TrimRight(string(b), "\r\n")
		if err == nil && *password == "" {
			err = errors.New("--password-stdin: there was none")
		}
		return err
	}
	if *user != "" && *password != "" {
		return nil
	}
	if !isTerminal(p.stdin) {
		return &usageError{fmt.Errorf("login %s: no name or no password is given, and nobody is there to be asked", server),
			"give --username NAME and --password-stdin"}
	}
	in := bufio.NewReader(p.stdin)
	if *user == "" {
		fmt.Fprintf(p.stderr, "Username for %s: ", server)
		line, err := in.ReadString('\n')
		if err != nil {
			return err
		}
		*user = strings.TrimSpace(line)
	}
	if *password == "" {
		line, err := p.unseen(in, "Password: ")
		if err != nil {
			return err
		}
		*password = line
	}
	if *user == "" || *password == "" {
		return &usageError{fmt.Errorf("login %s: the name or the password is empty", server), ""}
	}
	return nil
}

// unseen reads a line that the terminal does not show.
func (p *program) unseen(in *bufio.Reader, prompt string) (_ string, err error) {
	fd := int(p.stdin.Fd())
	old, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return "", err
	}
	dark := *old
	dark.Lflag = dark.Lflag&^unix.ECHO | unix.ECHONL
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &dark); err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, unix.IoctlSetTermios(fd, unix.TCSETS, old)) }()
	fmt.Fprint(p.stderr, prompt)
	line, err := in.ReadString('\n')
	return strings.TrimRight(line, "\r\n"), err
}
