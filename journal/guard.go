package journal

import (
	"fmt"
	"runtime/debug"
)

// guard runs fn, which touches bbolt's memory map, and turns a panic or a memory fault into a CorruptError.
//
// bbolt trusts its pages: a damaged one makes it panic, or follow a page number to beyond the file (SIGBUS) or beyond the
// map (SIGSEGV). Open has verified every page, so this is for damage that comes later. SetPanicOnFault is per
// goroutine, so fn must not hand bbolt calls to another one. A loop it cannot end; that is what verification before
// use is for. Nothing of ours panics inside fn except for broken invariants, which end the journal just the same.
func guard(what string, fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			cause, ok := p.(error)
			if !ok {
				cause = fmt.Errorf("panic: %v", p)
			}
			err = &CorruptError{Where: what, Err: cause}
		}
	}()
	return fn()
}
