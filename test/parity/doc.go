// Package parity holds what a build step sees in whittle's sandbox against what
// it sees elsewhere: in OCI runtimes, and in a RUN of dockerd's BuildKit. One
// program, the probe, prints it. A difference that is meant stands in
// differences.txt with its reason; one that stands there and is gone is a
// failure too.
//
// The rows of runc and crun show that a runtime makes of whittle's own spec what
// whittle makes of it. That the spec is Docker's shows the row of dockerd: its
// BuildKit writes a config.json of its own, with Docker's default capabilities,
// masks and seccomp profile, and has the machine's runc run it. No part of that
// is whittle's.
package parity
