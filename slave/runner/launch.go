package runner

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// lockFD is where the runner finds its lock: the first of ExtraFiles.
const lockFD = 3

// LaunchConfig says how to start a runner.
type LaunchConfig struct {
	// Exe is the command, to which --dir DIR is added: the path of this
	// binary and "runner".
	Exe []string
	// Dir is the attempt's directory, prepared.
	Dir string
	// Env is the runner's own environment; steps get the plan's. Default:
	// this process's.
	Env []string
	// Died is called when the runner is dead, if this process still lives then.
	// Default: nobody is told.
	Died func()
}

// Launch starts the runner of a prepared attempt and returns; the runner
// outlives this process. ErrAlive: it has one. ErrEnded: it needs none.
//
// The lock is taken before the fork and inherited. If we die at any point,
// either no runner exists and the lock is free, or one exists and holds it.
func Launch(ctx context.Context, cfg LaunchConfig) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	dir, err := filepath.Abs(cfg.Dir) // the runner starts in it
	if err != nil {
		return fmt.Errorf("launch runner: %w", err)
	}
	lock, err := Lock(dir)
	if err != nil {
		return err
	}
	// Our copy. The runner's keeps the lock.
	defer lock.Close()
	if err := checkEnded(dir); err != nil {
		return fmt.Errorf("launch runner: %w", err)
	}
	log, err := os.OpenFile(logPath(dir), os.O_WRONLY|os.O_CREATE|os.O_APPEND|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0o644)
	if err != nil {
		return fmt.Errorf("launch runner: %w", err)
	}
	defer log.Close()
	if len(cfg.Exe) == 0 {
		return errors.New("launch runner: no command")
	}
	args := append(append([]string(nil), cfg.Exe[1:]...), "--dir", dir)
	cmd := exec.Command(cfg.Exe[0], args...) // not CommandContext: it outlives us
	cmd.Dir = dir
	cmd.Env = cfg.Env
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{lock}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("launch runner: %w", err)
	}
	go func() {
		_ = cmd.Wait() // no zombie while we live; its word is on disk
		if cfg.Died != nil {
			cfg.Died()
		}
	}()
	return nil
}

// checkEnded returns ErrEnded if the attempt has ended. Whatever else keeps us
// from knowing is an error too: a step must not run again because of it.
func checkEnded(dir string) error {
	switch _, err := os.Lstat(endPath(dir)); {
	case err == nil:
		return ErrEnded
	case errors.Is(err, fs.ErrNotExist):
		return nil
	default:
		return err
	}
}
