// Package places holds that whittle builds in the places where it is run: its
// tests start containers as a CI service or a cluster does, with the rights
// those give, and build in them. See docs/where-it-runs.md.
//
// One dockerd serves all tests of the package: a test calls inside, which
// starts it when it is the first, and runs a script in a container of its own.
// No container has a network.
package places
