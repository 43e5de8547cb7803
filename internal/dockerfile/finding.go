package dockerfile

import (
	"fmt"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/linter"
)

// Finding is one case of a lint rule, without its place.
type Finding struct {
	Rule, Msg, URL, Hint string
	About                string // what the rule is for
	// Own marks whittle's own rules: they never fail a build.
	Own bool
}

func finding[F any](r linter.LinterRule[F], msg, hint string) Finding {
	return Finding{Rule: r.Name, Msg: msg, URL: r.URL, Hint: hint, About: r.Description}
}

func own(rule, hint, format string, args ...any) Finding {
	return Finding{Rule: rule, Msg: fmt.Sprintf(format, args...), Hint: hint, Own: true}
}

// The rules of the reference, in the order of its documentation.

// NoEmptyContinuation is a blank line inside of a continued instruction.
func NoEmptyContinuation() Finding {
	r := linter.RuleNoEmptyContinuation
	return finding(r, r.Format(), "remove the blank line, or put a # into it")
}

// ConsistentInstructionCasing is an instruction in another case than most.
func ConsistentInstructionCasing(keyword, casing string) Finding {
	r := linter.RuleConsistentInstructionCasing
	return finding(r, r.Format(keyword, casing), "")
}

// DuplicateStageName is a stage name used twice.
func DuplicateStageName(name string) Finding {
	r := linter.RuleDuplicateStageName
	return finding(r, r.Format(name), "FROM takes the nearest one above, COPY --from the last one of the file; give each its own name")
}

// ReservedStageName is a stage called scratch or context.
func ReservedStageName(name string) Finding {
	r := linter.RuleReservedStageName
	return finding(r, r.Format(name), "choose another name")
}

// JSONArgsRecommended is CMD or ENTRYPOINT in shell form.
func JSONArgsRecommended(keyword string) Finding {
	r := linter.RuleJSONArgsRecommended
	return finding(r, r.Format(keyword), keyword+` ["program", "argument"] runs without a shell, so that signals reach the program`)
}

// UndefinedArgInFrom is a variable in FROM that no global ARG declares.
func UndefinedArgInFrom(name, suggestion string) Finding {
	r := linter.RuleUndefinedArgInFrom
	return finding(r, r.Format(name, suggestion), fmt.Sprintf("declare it above the first FROM: ARG %s=value", name))
}

// WorkdirRelativePath is a first WORKDIR that is relative.
func WorkdirRelativePath(path string) Finding {
	r := linter.RuleWorkdirRelativePath
	return finding(r, r.Format(path), "write an absolute path")
}

// UndefinedVar is a variable that nothing sets.
func UndefinedVar(name, suggestion string) Finding {
	r := linter.RuleUndefinedVar
	return finding(r, r.Format(name, suggestion), fmt.Sprintf("it is empty; declare it in this stage with ARG %s or ENV %s=value", name, name))
}

// MultipleInstructionsDisallowed is a CMD, ENTRYPOINT or HEALTHCHECK that a
// later one of the same stage replaces.
func MultipleInstructionsDisallowed(keyword string) Finding {
	r := linter.RuleMultipleInstructionsDisallowed
	return finding(r, r.Format(keyword), "remove it")
}

// LegacyKeyValueFormat is ENV or LABEL without =.
func LegacyKeyValueFormat(keyword string) Finding {
	r := linter.RuleLegacyKeyValueFormat
	return finding(r, r.Format(keyword), "")
}

// InvalidBaseImagePlatform is a base image for another platform than asked.
func InvalidBaseImagePlatform(image, expected, actual string) Finding {
	r := linter.RuleInvalidBaseImagePlatform
	return finding(r, r.Format(image, expected, actual), "")
}

// RedundantTargetPlatform is FROM --platform=$TARGETPLATFORM.
func RedundantTargetPlatform(platform string) Finding {
	r := linter.RuleRedundantTargetPlatform
	return finding(r, r.Format(platform), "leave --platform out")
}

// SecretsUsedInArgOrEnv is an ARG or ENV whose name says that it is secret.
func SecretsUsedInArgOrEnv(keyword, name string) Finding {
	r := linter.RuleSecretsUsedInArgOrEnv
	return finding(r, r.Format(keyword, name), "the value can be read in the image's config or history")
}

// InvalidDefaultArgInFrom is a FROM whose ARGs give no image by default.
func InvalidDefaultArgInFrom(base string) Finding {
	r := linter.RuleInvalidDefaultArgInFrom
	hint := "give the ARG above the first FROM a default"
	if !strings.Contains(base, "$") { // the rule's words speak of an ARG all the same
		hint = "write the name of an image, in lower-case letters"
	}
	return finding(r, r.Format(base), hint)
}

// FromPlatformFlagConstDisallowed is FROM --platform with a fixed value.
func FromPlatformFlagConstDisallowed(platform string) Finding {
	r := linter.RuleFromPlatformFlagConstDisallowed
	return finding(r, r.Format(platform), "write --platform=$BUILDPLATFORM or leave it out, or name the stage after the platform")
}

// CopyIgnoredFile is a source of COPY or ADD that the ignore file leaves out
// of the context.
func CopyIgnoredFile(add bool, file string) Finding {
	r, command := linter.RuleCopyIgnoredFile, "Copy"
	if add {
		command = "Add"
	}
	return finding(r, r.Format(command, file), "take it out of the ignore file, or copy something else")
}

// ExposeProtoCasing is EXPOSE 80/TCP.
func ExposeProtoCasing(port string) Finding {
	r := linter.RuleExposeProtoCasing
	return finding(r, r.Format(port), "")
}

// ExposeInvalidFormat is EXPOSE with an address or a host's port.
func ExposeInvalidFormat(port string) Finding {
	r := linter.RuleExposeInvalidFormat
	return finding(r, r.Format(port), "write only the container's port; the host's is chosen when it runs (run -p)")
}

// parserHint is our hint to a rule that the reference's own parser checks.
func parserHint(rule string) string {
	switch rule {
	case linter.RuleMaintainerDeprecated.Name:
		return "write LABEL org.opencontainers.image.authors=name"
	case linter.RuleStageNameCasing.Name:
		return "names are compared in lower case"
	}
	return ""
}

// Rules of whittle's own.

// StageByNumber is COPY --from=0; name is the stage's, "" if it has none.
func StageByNumber(number int, base, name string) Finding {
	hint := fmt.Sprintf("write --from=%s: numbers change when a stage is added", name)
	if name == "" {
		hint = fmt.Sprintf("name the stage, FROM %s AS build, and write --from=build: numbers change when a stage is added", base)
	}
	return own("StageByNumber", hint, "stage %d is used by its number", number)
}

// InvalidJSONForm is something in brackets that is no JSON and so, in the
// reference and here, a shell command or a list of words. fixed may be "".
func InvalidJSONForm(keyword, meaning, fixed string) Finding {
	hint := "JSON strings have double quotes"
	if fixed != "" {
		hint = "write " + keyword + " " + fixed
	}
	return own("InvalidJSONForm", hint, "this looks like the JSON form of %s but is not JSON, so it is %s", keyword, meaning)
}

// FlagIgnored is a flag of an instruction that never reads its flags.
func FlagIgnored(keyword, flag string) Finding {
	return own("FlagIgnored", "remove it", "%s has no flags: %s has no effect", keyword, flag)
}

// EmptyCommand is RUN, CMD or ENTRYPOINT with nothing after it.
func EmptyCommand(keyword string) Finding {
	return own("EmptyCommand", "write a command, or remove the line", "%s without a command runs an empty shell", keyword)
}

// TriggerFails is an ONBUILD whose trigger cannot work.
func TriggerFails(msg, hint string) Finding {
	return own("TriggerFails", hint, "builds on this image will fail with this version: %s", msg)
}

// BuildArgNotUsed is a --build-arg that no ARG declares.
func BuildArgNotUsed(name, suggestion string) Finding {
	hint := fmt.Sprintf("declare it with ARG %s in the stage that needs it", name)
	if suggestion != "" {
		hint = fmt.Sprintf("did you mean %s?", suggestion)
	}
	return own("BuildArgNotUsed", hint, "build argument %s was given, but no ARG declares it", name)
}

// BuildArgIdle is a --build-arg that means something to the reference and has
// no effect here.
func BuildArgIdle(name, why string) Finding {
	return own("BuildArgIdle", "leave it out", "build argument %s changes nothing: %s", name, why)
}
