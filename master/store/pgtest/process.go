package pgtest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

// process is a child that dies with us.
type process struct {
	cmd *exec.Cmd

	// gone is closed when the child and all its descendants have ended: they inherit one end of a pipe, and this is
	// the end of it. Reading /proc instead would miss who is just being forked.
	gone chan struct{}
	err  error // what the child ended with; read it after gone
}

// spawn starts cmd, which gets the signal when this process dies. The kernel sends it when the thread dies that
// forked the child, so one thread is kept for it as long as it lives. That the child changes its user does no harm:
// syscall asks for the signal after that.
func spawn(cmd *exec.Cmd, death syscall.Signal) (*process, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.ExtraFiles = append(cmd.ExtraFiles, w)
	onDeath(cmd.SysProcAttr, death)
	p := &process{cmd: cmd, gone: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer r.Close()
		err := cmd.Start()
		w.Close()
		started <- err
		if err != nil {
			return
		}
		p.err = cmd.Wait()
		_, _ = io.Copy(io.Discard, r)
		close(p.gone)
	}()
	return p, <-started
}

// over tells whether nothing of it is left.
func (p *process) over() bool {
	select {
	case <-p.gone:
		return true
	default:
		return false
	}
}

// remover removes directories when this process is gone, or before.
type remover struct {
	cmd  *exec.Cmd
	hold *os.File // the remover waits for the end of this pipe
}

// removal tries for a while: a server that dies at the same moment still makes files.
const removal = `cat >/dev/null
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
	rm -rf -- "$@" 2>/dev/null && exit 0
	sleep 0.2
done
exit 1`

func newRemover(dirs ...string) (*remover, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd := exec.Command("sh", append([]string{"-c", removal, "sh"}, dirs...)...)
	cmd.Dir = "/"
	cmd.Stdin = r
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // what kills our group leaves it to its work
	if err := cmd.Start(); err != nil {
		w.Close()
		return nil, fmt.Errorf("start what removes directories: %w", err)
	}
	return &remover{cmd: cmd, hold: w}, nil
}

// remove does it now.
func (r *remover) remove() error {
	r.hold.Close()
	var status *exec.ExitError
	if err := r.cmd.Wait(); errors.As(err, &status) && status.ExitCode() == 1 {
		return fmt.Errorf("could not remove %q", r.cmd.Args[4:])
	} else if err != nil {
		return fmt.Errorf("removing %q: %w", r.cmd.Args[4:], err)
	}
	return nil
}
