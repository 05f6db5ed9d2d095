package storetest

import (
	"testing"

	"holdfast/master/store"
	"holdfast/master/store/invariant"
)

// Open opens the store that lives in dir, and makes it if there is none. Views
// reads the public views of the same store. The test closes the store.
type Open func(tb testing.TB, dir string) (s store.Store, views invariant.DB)

// cases are the contract. Each has a store of its own.
var cases = []struct {
	name string
	test func(*rig)
}{
	{"Submit", testSubmit},
	{"RequestKeys", testRequestKeys},
	{"CancelUnshelve", testCancelUnshelve},
	{"Reprioritise", testReprioritise},
	{"Assign", testAssign},
	{"Withdraw", testWithdraw},
	{"Refused", testRefused},
	{"Freed", testFreed},
	{"Unsupported", testUnsupported},
	{"Waits", testWaits},
	{"WaitStats", testWaitStats},
	{"Queue", testQueue},
	{"Listing", testListing},

	{"Apply", testApply},
	{"ApplyAfterEnd", testApplyAfterEnd},
	{"ApplyGroup", testApplyGroup},
	{"BadFrames", testBadFrames},
	{"BadUpdate", testBadUpdate},
	{"Fence", testFence},
	{"T-ack-epoch", testAckEpoch},
	{"Diverged", testDiverged},
	{"Gap", testGap},
	{"Back", testBack},
	{"Refuse", testRefuse},

	{"Log", testLog},
	{"LogOverlap", testLogOverlap},
	{"LogGap", testLogGap},
	{"LogMismatch", testLogMismatch},
	{"LogOfSkipped", testLogOfSkipped},

	{"Identity", testIdentity},
	{"RefusedInTurn", testRefusedInTurn},
	{"SlaveBackInTime", testSlaveBackInTime},
	{"T-register-once", testRegisterOnce},
	{"JournalLost", testJournalLost},
	{"Absent", testAbsent},
	{"Released", testReleased},
	{"Wants", testWants},
	{"Lose", testLose},
	{"ReturnOfTheLost", testReturn},
	{"Evidence", testEvidence},
	{"EndSessions", testEndSessions},
	{"Masters", testMasters},
	{"BrakeReleases", testBrakeReleases},

	{"Recover", testRecover},
	{"Drain", testDrain},
	{"T-known-dead", testKnownDead},
	{"T-zombie-slot", testReset},
	{"Quarantine", testQuarantine},
	{"QuarantineLifted", testQuarantineLifted},

	{"Events", testEvents},
	{"SlaveEvents", testSlaveEvents},
	{"T-shelve", testShelve},
	{"Reopen", testReopen},
	{"Poison", testPoison},
	{"Idempotence", testIdempotence},
	{"Concurrent", testConcurrent},
	{"Random", testRandom},
	{"RandomFaults", testRandomFaults},
}

// Run tests a database against the contract of package store.
func Run(t *testing.T, open Open) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, open)
			c.test(r)
			r.check(invariant.Options{})
		})
	}
}
