package runner

import (
	"runtime"
	"sync"
)

// spareThreads is more than the runner ever has in system calls at once: one
// reaps, two pump, one flushes, one writes records, one has a poke to deliver.
const spareThreads = 8

// warmThreads makes the runtime start n threads now; it keeps them. A step that
// uses up all processes there may be (a fork bomb) would otherwise kill us: Go
// dies when it needs a thread and gets none.
func warmThreads(n int) {
	var ready, done sync.WaitGroup
	release := make(chan struct{})
	ready.Add(n)
	for range n {
		done.Go(func() {
			runtime.LockOSThread() // a blocked goroutine keeps its thread
			defer runtime.UnlockOSThread()
			ready.Done()
			<-release
		})
	}
	ready.Wait()
	close(release)
	done.Wait()
}
