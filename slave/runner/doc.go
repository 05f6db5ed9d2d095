// Package runner carries the steps of one attempt through, in a process of its
// own that outlives the agent (P-start-once, P-exit, P-survive).
//
// What it guarantees: a step is never started twice; each byte of its output is
// in the spool before its end is recorded; nothing of a step is left running
// when its end is recorded, or it is named; everything there is to know is on
// disk, for whichever agent looks next.
//
// What it does not: decide about retries, talk to masters, survive a reboot.
//
//	ATTEMPT/
//	  plan.json            what to do; written by the agent before the launch
//	  lock                 held (flock) = a runner is alive
//	  stop.json            the agent wants the attempt stopped
//	  ctl                  FIFO, a byte in it means "look again"; a hint only
//	  runner.json          pid and start, for people
//	  runner.log           what the runner itself had to say
//	  steps/0001/started   made before the command starts, O_EXCL
//	  steps/0001/pid.json  the command's process, for people
//	  steps/0001/log/      the spool (package spool)
//	  steps/0001/exit.json how the step ended
//	  end.json             how the attempt ended; the last thing written
//
// JSON files carry a version; they appear whole, by rename, and are synced
// with their directory.
//
// # Order at the end of a step
//
//	all its processes reaped → pipes read to the end → spool synced
//	  → exit.json synced and renamed → (agent) update journaled → sent
//
// # If something dies
//
//	before started is durable   nothing has run; the step may be started
//	after it, before exit.json  the step may have run: it is never started
//	                            again, the attempt ends as runner_lost
//	after exit.json             the step's end is known; the next step was not
//	                            started, the attempt ends as runner_lost
//	after end.json              nothing is lost
//
// Steps run as the same user and can write these files, too. What no runner
// would have written counts as damaged (check.go); the agent believes an end
// only when its runner is dead and nothing is left.
//
// # Processes
//
// The runner is a session leader and a subreaper: whatever a step leaves
// behind becomes its child. One loop reaps, until there is nothing to reap.
// Life is told by the lock alone, never by a pid or a file time. The agent
// takes the lock before it forks and the runner inherits it, so that no moment
// exists in which a runner lives without it.
//
// Where it may, the runner puts itself into a control group, which nothing that
// it starts can leave without being root. Whoever cleans up after a dead runner
// looks there, and for the marks in the environment of processes.
//
// The caller owes: one Prepare and then Launch per attempt, by one agent at a
// time; KillLeftovers before the end of an attempt with a dead runner is told.
package runner
