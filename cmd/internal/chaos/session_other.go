//go:build !linux

package chaos

import "syscall"

func ownSession() *syscall.SysProcAttr { return nil }
