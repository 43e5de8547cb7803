// Package parity holds what a build step sees in whittle's sandbox against what
// it sees elsewhere: in OCI runtimes, and in a RUN of dockerd's BuildKit. One
// program, the probe, prints it. A difference that is meant stands in
// differences.txt with its reason; one that stands there and is gone is a
// failure too.
package parity
