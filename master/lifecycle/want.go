package lifecycle

// Wish is what the master wants of an attempt that a slave may hold (P-want).
type Wish string

// The wishes. None means that nothing of the attempt is left at its slave.
const (
	WishNone   Wish = ""
	WishRun    Wish = "run"
	WishStop   Wish = "stop"
	WishForget Wish = "forget"
)

// Want returns what the master wants of an attempt, and why in words. It is
// read from the record alone, so it is the same after any crash, and becomes
// "forget" only when the slave has nothing left to tell. Stop is final: it never
// becomes run again.
//
// Forget for an attempt with SetAside means: stop it, move what is left into a
// file, answer with Absent.
func (r *Record) Want(id AttemptID) (wish Wish, reason string) {
	a := r.Attempt(id)
	switch {
	case a == nil || a.Released:
		return WishNone, ""
	case a.SetAside:
		return WishForget, a.Stop
	case a.Reported && a.drained():
		return WishForget, "all of it is stored"
	case a.Stop != "":
		return WishStop, a.Stop
	case a.State.Live() || r.adoptable(a):
		return WishRun, ""
	case a.Reported && a.Outcome == "":
		return WishRun, "the rest of the log is still to come"
	default:
		return WishStop, "the attempt is " + string(a.State)
	}
}
