package main

import "strings"

// zero is what docker prints of a field that has nothing in it: as text, and
// as JSON.
type zero struct{ text, json string }

// zeros are the fields of docker inspect that an image or a container may be
// without, by their kinds.
var zeros = [...]struct {
	zero
	fields string
}{
	{zero{"", `""`}, "Config.User Config.WorkingDir Config.StopSignal Config.Hostname Config.Domainname Config.Image " +
		"Variant OsVersion DockerVersion Container Driver LogPath " +
		"NetworkSettings.IPAddress NetworkSettings.Gateway NetworkSettings.MacAddress"},
	{zero{"[]", "null"}, "Config.Entrypoint Config.Cmd Config.Env Config.OnBuild Config.Shell RepoTags RepoDigests"},
	{zero{"map[]", "null"}, "Config.ExposedPorts Config.Volumes Config.Labels NetworkSettings.Networks"},
	{zero{"<nil>", "null"}, "Config.Healthcheck State.Health"},
	{zero{"false", "false"}, "Config.Tty Config.OpenStdin Config.StdinOnce Config.AttachStdin Config.AttachStdout Config.AttachStderr " +
		"Config.ArgsEscaped State.OOMKilled State.Restarting HostConfig.Privileged HostConfig.PublishAllPorts"},
	{zero{"0", "0"}, "RestartCount HostConfig.RestartPolicy.MaximumRetryCount"},
	{zero{"no", `"no"`}, "HostConfig.RestartPolicy.Name"}, // docker's word for none
}

// zeroOf is the value of a field that inspect leaves out.
func zeroOf(path []string) (zero, bool) {
	name := strings.Join(path, ".")
	for _, z := range zeros {
		for f := range strings.FieldsSeq(z.fields) {
			if f == name {
				return z.zero, true
			}
		}
	}
	return zero{}, false
}

// isMap says whether the field of this name has any keys: one that it has not
// is no mistake.
func isMap(name string) bool {
	switch name {
	case "Labels", "ExposedPorts", "Volumes", "Ports", "PortBindings", "Networks":
		return true
	}
	return false
}
