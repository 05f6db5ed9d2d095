// Package slave is the agent of a build machine: it talks to masters, has
// runners carry attempts through, and reports what they leave on disk. Rules
// (P…) are those of proto/PROTOCOL.md.
//
// What it guarantees:
//
//   - An update is durable in the journal before it is sent, is sent as those
//     very bytes until a store has committed it, and moves in one transaction with
//     the note that it was told (P-durable, P-once, P-frame).
//   - Nothing of an attempt starts before the store has confirmed `accepted`
//     in this life of the agent, or against the newest Want (P-accept).
//   - What runs is not disturbed by the death of the agent, of the link, or of
//     a master: the next agent looks at the files and goes on (P-readopt).
//   - Identity and epoch are durable before anybody hears of them
//     (P-incarnation, P-epoch).
//   - Status goes ahead of logs, and logs leave little in flight (P-lanes).
//   - A store that did not give an attempt is not obeyed about it, and no
//     record is dropped for it (P-store).
//
// What it does not: decide about retries; survive a reboot of the machine;
// report anything that no file says.
//
// # Data flow
//
//	runner ── files ──► look ──► batch ──► journal ──► sender ──► StatusBatch ──► master
//	   │                (sight)  (report)  (frame)        ▲                         │
//	   └── spool ─────────────────────────────── tail ────┘ LogChunk                │
//	                                                                                │
//	   trim ◄── attempt ◄── ack ◄── session.receive ◄── Ack, Want, Welcome ◄────────┘
//
// # Goroutines
//
//	Run ─┬─ journal.Run            outlives all others: stopped last
//	     └─ group (ends with the first error, or with ctx)
//	         ├─ link.run           dials, waits, serves one session after another
//	         │    └─ session ─┬─ receive      obeys Wants, takes ACKs
//	         │                ├─ send         status lane, then log lane
//	         │                └─ watchStall   asks for a second dial
//	         │    └─ second dial, while a session stalls
//	         ├─ attempt.run        one for each attempt held
//	         ├─ watchRunners       wake-ups → a look at every attempt
//	         ├─ watchRoom          a full journal → room again
//	         ├─ leftovers.watch    while something cannot be killed
//	         ├─ awaitDrained       ends Run after Drain
//	         ├─ processes.run      wake FIFO, deaths of runners     (real runners
//	         ├─ serveSock          copies of the journal             only)
//	         └─ watchNetwork       netlink                          (real TCP only)
//
// Wake-ups are one-slot channels; the truth is on disk. With nothing to do
// there is no timer but keepalive's. While attempts run there is a scan each
// Config.ScanEvery, in case a wake-up is lost.
//
// # State
//
//	identity.json       instance, incarnation, highest epoch, store   identity
//	journal.db          per attempt: meta, launch, report, frames     attempt.report
//	                    tombstones                                    tombstones
//	                    what could not be killed                      leftovers
//	attempts/ID/        plan, records, spool                          runner; attempt removes it
//	work/ID, kept/NAME  workspaces                                    attempt
//	refused/            what no store took, or a snapshot replaced, for people; bounded
//	orphaned/           directories whose journal record was lost, for people
//	lock, wake, agent.sock
//
// Memory holds nothing else that matters. In-memory marks start from Welcome
// in each session.
//
// # Failure
//
// A failed fsync, a damaged journal in use, a damaged identity: Run returns an
// error, the process ends, the next start recovers. A full disk or journal:
// updates wait, no new attempt is taken, ACKs make room; what failed is tried
// again in its own time, whatever wakes the agent. Everything about a
// master or the network: tried again for ever, with capped back-off.
//
// The caller owes:
//
//  1. one agent per directory (DIR/lock tells);
//  2. a restart after an error of Run;
//  3. runners that outlive it: with systemd, KillMode=process.
package slave
