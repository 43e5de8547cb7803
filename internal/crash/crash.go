//go:build !crashpoints

// Package crash lets tests kill a process at named points of its work. In an
// ordinary build Point does nothing; with the build tag crashpoints it kills
// the process when WHITTLE_CRASH names the point.
package crash

// Point marks a place at which a crash must be harmless.
func Point(string) {}
