//go:build !linux

package pgtest

import "syscall"

// FastDir returns a directory in memory, for Config.In, or "" if there is none with room.
func FastDir() string { return "" }

func onDeath(*syscall.SysProcAttr, syscall.Signal) {}

func removeInterlock(string) {}
