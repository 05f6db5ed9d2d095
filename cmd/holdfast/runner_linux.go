package main

import "holdfast/slave/runner"

// runnerMain carries an attempt through. It is started by the agent for each
// attempt, so nothing may come before it.
func runnerMain(args []string) int { return runner.Main(args) }
