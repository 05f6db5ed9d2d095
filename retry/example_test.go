package retry_test

import (
	"fmt"
	"time"

	"holdfast/retry"
)

// A build that hurts whichever slave it runs on ends on the shelf.
func ExampleDecide() {
	policy := retry.DefaultPolicy()
	var history retry.History
	for _, slave := range []string{"b1", "b2", "b3"} {
		end := retry.Outcome{Cause: retry.MachineRebooted, Accepted: true, Slave: slave}
		if end.Counts() {
			history.TransientFailures++
		}
		d := retry.Decide(policy, history, end, nil) // nil: without jitter
		history.LostOn = append(history.LostOn, slave)
		fmt.Println(d.Action, d.Delay, d.Avoid)
	}
	// Output:
	// retry 5s [b1]
	// retry 10s [b1 b2]
	// shelve 0s [b1 b2 b3]
}

// A loop that carries results never gives up; it waits longer, up to a cap, and
// starts over as soon as the other side does something for it.
func ExampleReconnect() {
	r := retry.NewReconnect(nil) // nil: without jitter
	for range 6 {
		fmt.Print(r.Next(), " ")
	}
	r.Progress()
	fmt.Println("then", r.Next())
	// Output: 100ms 200ms 400ms 800ms 1.6s 2s then 100ms
}

func ExampleBackoff_Ceiling() {
	b := retry.Backoff{Base: time.Second, Cap: 10 * time.Second}
	fmt.Println(b.Ceiling(1), b.Ceiling(3), b.Ceiling(1000000))
	// Output: 1s 4s 10s
}

func ExampleOfExit() {
	for _, code := range []int{0, 1, 128} {
		cause, ended := retry.OfExit(code, []int{128})
		fmt.Printf("%d %q %v\n", code, cause, ended)
	}
	// Output:
	// 0 "" false
	// 1 "command_failed" true
	// 128 "exit_code_transient" true
}
