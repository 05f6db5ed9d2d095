// Package lifecycle holds the rules of builds: what each word of a slave, of the
// master and of a person does to a build, its attempts and their steps. It is a
// pure state machine: a Record and a word go in, a changed Record and the rows
// to write (Changes) come out. No clock, no I/O, no goroutine. Every store runs
// the same rules inside its own transaction.
//
// # Builds
//
//	                  accept; adoption            the slave's report
//	submit ──► queued ──────────────────► running ──────────────────► succeeded
//	            │  ▲  ◄───── retry ──────  │  ▲                       failed
//	            │  │                       │  │ adoption              cancelled
//	            │  │                       ▼  │
//	            │  └────── unshelve ────── shelved    (limit reached, or
//	            ▼                            │         rerun: never)
//	   cancelled; failed                     ▼
//	   (bad spec); shelved               cancelled
//
// # Attempts
//
//	          assign              accept               the slave's report
//	(none) ──────────► assigned ──────────► running ──────────► succeeded
//	                    │    │               │   ▲              failed
//	          withdraw, │    │ refused       │   │              cancelled
//	          cancel,   │    │          lose │   │ adoption
//	          lose      ▼    ▼               ▼   │
//	             withdrawn  refused          lost ── another accepted ─► lost,
//	                                                               superseded
//
// BuildArrows, AttemptArrows, StepArrows and LogArrows are the complete lists.
//
// # What it guarantees
//
//   - A final state is final. At most one attempt may change its build.
//   - Assigned proves that nothing was started (P-accept): it is withdrawn at no
//     cost.
//   - A word that comes late is never refused and never changes the build: it is
//     kept as evidence on its attempt. The one exception is a lost attempt in
//     whose place none was accepted: it is adopted, its count taken back.
//   - Counts are derived from the attempts each time, so they cannot drift.
//   - An error means that nothing was changed.
//   - Times of one build never decrease, whatever the clocks do. The intervals
//     of the wait ledger sum to the wait exactly.
//   - Same record, same word, same result.
//
// # What it does not do
//
// It does not check seq, epoch and CRC, nor count refused frames: the store does
// (P-apply, P-fence, P-refuse), and marks are the store's. It does not choose
// slaves, measure lost_after, or know the farm.
//
// # What the caller owes
//
//  1. Read all attempts and steps of the build, apply the rule, and write all
//     Changes in one transaction; after an error, write nothing.
//  2. Keep every field, Attempt.Last and Build.WaitNumber and WaitFrom included.
//     Times are whole microseconds, UTC.
//  3. Set LogMark and LogCRC before LogProgress. Write Mark, Chain and the log
//     marks yourself: no rule changes them.
//  4. Send a slave the wish (Want) of an attempt before the ACK of anything
//     committed for it, on the same stream. An accept that arrives after its
//     attempt was withdrawn is committed, and so ACKed; the slave must by then
//     know that it shall not start.
//  5. When a slave connects, call Return and Expire for each attempt it holds and
//     Release for each it does not; those that it still owes an end are asked for by
//     Want and answered with Absent.
package lifecycle
