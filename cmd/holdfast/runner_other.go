//go:build !linux

package main

import (
	"fmt"
	"os"
)

// runnerMain: slaves are Linux machines.
func runnerMain([]string) int {
	fmt.Fprintln(os.Stderr, "holdfast: slaves run on Linux only")
	return exitRefused
}
