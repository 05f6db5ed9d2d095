package spec

import (
	"time"

	"go.yaml.in/yaml/v3"
)

// spec reads the whole build file. The result is to be used only if there are
// no problems.
func (r *reader) spec(root *yaml.Node) *Spec {
	s := &Spec{Retry: DefaultRetry(), Rerun: RerunAuto, Workspace: WorkspaceAttempt}
	r.fields("", root, "a build with name and steps", []field{
		{"name", r.text(&s.Name)},
		{"reason", r.text(&s.Reason)},
		{"requires", r.words(&s.Requires, "labels such as {os: linux}")},
		{"retry", r.retry(&s.Retry)},
		{"lost_after", r.lostAfter(&s.LostAfter)},
		{"stop_on_slave_after", r.stopOnSlaveAfter(&s.StopOnSlaveAfter)},
		{"rerun", r.nonEmpty(&s.Rerun)},
		{"priority", r.number(&s.Priority)},
		{"workspace", r.nonEmpty(&s.Workspace)},
		{"steps", r.steps(&s.Steps)},
	})
	return s
}

// retry reads the retry policy. A backoff above the default cap raises the cap,
// unless the file says otherwise.
func (r *reader) retry(to *RetryPolicy) func(string, *yaml.Node) {
	return func(at string, n *yaml.Node) {
		r.fields(at, n, "a mapping such as {max_transient: 3}", []field{
			{"max_transient", r.number(&to.MaxTransient)},
			{"backoff", r.duration(&to.Backoff)},
			{"backoff_cap", r.duration(&to.BackoffCap)},
		})
		if _, set := r.values[child(at, "backoff_cap")]; !set {
			to.BackoffCap = max(to.BackoffCap, to.Backoff)
		}
	}
}

// lostAfter reads a duration, 0 among them, or never.
func (r *reader) lostAfter(to *LostAfter) func(string, *yaml.Node) {
	return func(at string, n *yaml.Node) {
		to.Set = true
		if isNever(n) {
			to.Never = true
			return
		}
		r.duration(&to.After)(at, n)
	}
}

// stopOnSlaveAfter reads a duration above 0, or never.
func (r *reader) stopOnSlaveAfter(to *time.Duration) func(string, *yaml.Node) {
	return func(at string, n *yaml.Node) {
		if !isNever(n) {
			r.limit(to)(at, n)
		}
	}
}

// isNever reports whether a value is the word never.
func isNever(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Value == "never" }

// steps reads the list of steps.
func (r *reader) steps(to *[]Step) func(string, *yaml.Node) {
	return func(at string, n *yaml.Node) {
		r.list(at, n, "a list of steps", func(at string, n *yaml.Node) {
			*to = append(*to, r.step(at, n))
		})
	}
}

// step reads one step.
func (r *reader) step(at string, n *yaml.Node) Step {
	s := Step{Grace: DefaultGrace}
	r.fields(at, n, "a step such as {name: test, run: make test}", []field{
		{"name", r.nonEmpty(&s.Name)},
		{"run", r.nonEmpty(&s.Run)},
		{"command", r.command(&s.Command)},
		{"dir", r.text(&s.Dir)},
		{"env", r.words(&s.Env, "variables such as {GOFLAGS: -count=1}")},
		{"timeout", r.limit(&s.Timeout)},
		{"silence", r.limit(&s.Silence)},
		{"grace", r.duration(&s.Grace)},
		{"retry_exit_codes", r.exitCodes(&s.RetryExitCodes)},
	})
	return s
}

// command reads an argument vector.
func (r *reader) command(to *[]string) func(string, *yaml.Node) {
	return func(at string, n *yaml.Node) {
		r.list(at, n, "a list of words such as [make, test]", func(at string, n *yaml.Node) {
			var word string
			r.text(&word)(at, n)
			*to = append(*to, word)
		})
		if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
			r.fail(at, n, "a list of words such as [make, test]", "an empty list", "")
		}
	}
}

// exitCodes reads a list of numbers.
func (r *reader) exitCodes(to *[]int) func(string, *yaml.Node) {
	return func(at string, n *yaml.Node) {
		r.list(at, n, "a list of exit codes such as [128]", func(at string, n *yaml.Node) {
			var code int
			r.number(&code)(at, n)
			*to = append(*to, code)
		})
	}
}

// words reads a mapping from names to texts; an empty one becomes nil.
func (r *reader) words(to *map[string]string, expected string) func(string, *yaml.Node) {
	return func(at string, n *yaml.Node) {
		r.mapping(at, n, expected, func(key string, _, v *yaml.Node) {
			var word string
			r.text(&word)(child(at, key), v)
			if *to == nil {
				*to = map[string]string{}
			}
			(*to)[key] = word
		})
	}
}
