package spec

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// steps checks all steps and that their names differ.
func (c *checker) steps(steps []Step) {
	switch {
	case len(steps) == 0:
		c.add("steps", "at least one step", "none")
	case len(steps) > MaxSteps:
		c.add("steps", fmt.Sprintf("at most %d steps", MaxSteps), fmt.Sprint(len(steps)))
		return
	}
	first := make(map[string]int, len(steps))
	for i := range steps {
		at := element("steps", i)
		c.step(at, &steps[i])
		name := steps[i].Name
		if earlier, dup := first[name]; dup && name != "" {
			c.add(at+".name", "a name of its own for each step", fmt.Sprintf("%s, the name of steps[%d]", quote(name), earlier))
		} else {
			first[name] = i
		}
	}
}

// step checks one step.
func (c *checker) step(at string, s *Step) {
	if want := printable(s.Name, MaxStepName); want != "" {
		c.add(at+".name", want, quote(s.Name))
	}
	switch {
	case s.Run == "" && len(s.Command) == 0:
		c.add(at, "run (a line for the shell) or command (a list of words)", "neither")
	case s.Run != "" && len(s.Command) > 0:
		c.add(at, "either run or command", "both")
	case s.Run != "" && strings.TrimSpace(s.Run) == "":
		c.add(at+".run", "a line for the shell", quote(s.Run))
	case len(s.Command) > 0 && s.Command[0] == "":
		c.add(at+".command[0]", "the name of a program", `""`)
	}
	c.text(at+".run", s.Run, MaxRun)
	if len(s.Command) > MaxArgs {
		c.add(at+".command", fmt.Sprintf("at most %d words", MaxArgs), fmt.Sprint(len(s.Command)))
	} else {
		for i, word := range s.Command {
			c.text(element(at+".command", i), word, MaxRun)
			c.bytes++ // an empty one takes space too
		}
	}
	c.dir(at+".dir", s.Dir)
	c.env(at+".env", s.Env)
	c.duration(at+".timeout", s.Timeout)
	c.duration(at+".silence", s.Silence)
	c.duration(at+".grace", s.Grace)
	c.exitCodes(at+".retry_exit_codes", s.RetryExitCodes)
}

// dir checks that a directory is relative and goes nowhere upwards, not even to
// come back: with symbolic links a/../b is not b. What a step links to where
// while it runs is the slave's to watch.
func (c *checker) dir(at, dir string) {
	c.text(at, dir, MaxDir)
	const want = "a directory below the workspace, such as src/lib"
	if path.IsAbs(dir) || slices.Contains(strings.Split(dir, "/"), "..") {
		c.add(at, want, quote(dir))
	}
}

// env checks the variables of a step.
func (c *checker) env(at string, env map[string]string) {
	if len(env) > MaxEnv {
		c.add(at, fmt.Sprintf("at most %d variables", MaxEnv), fmt.Sprint(len(env)))
		return
	}
	total := 0
	for _, name := range slices.Sorted(maps.Keys(env)) {
		total += len(name) + len(env[name]) + 2
		c.bytes += len(name) + 1
		switch {
		case !validEnvName(name):
			c.addKey(child(at, name), "the name of a variable: letters, digits and _, not beginning with a digit", quote(name))
		case strings.HasPrefix(name, "HOLDFAST_"):
			c.addKey(child(at, name), "another name: holdfast sets the variables HOLDFAST_* itself", quote(name))
		}
		c.text(child(at, name), env[name], MaxEnvBytes)
	}
	if total > MaxEnvBytes {
		c.add(at, fmt.Sprintf("at most %d bytes of variables", MaxEnvBytes), fmt.Sprint(total))
	}
}

// exitCodes checks the list of transient exit codes. 0 is success and cannot
// be made a failure.
func (c *checker) exitCodes(at string, codes []int) {
	if len(codes) > MaxRetryExitCodes {
		c.add(at, fmt.Sprintf("at most %d exit codes", MaxRetryExitCodes), fmt.Sprint(len(codes)))
		return
	}
	for i, code := range codes {
		c.within(element(at, i), code, 1, 255)
		if slices.Contains(codes[:i], code) {
			c.add(element(at, i), "each exit code once", fmt.Sprintf("%d again", code))
		}
	}
}

// validEnvName reports whether every shell can use the name.
func validEnvName(name string) bool {
	for i := range len(name) {
		c := name[i]
		if !isAlnum(c) && c != '_' || i == 0 && c >= '0' && c <= '9' {
			return false
		}
	}
	return name != ""
}
