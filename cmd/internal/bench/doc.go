// Package bench measures both sides together: a real master, real agents,
// real journals, a real store, and gRPC over TCP on the loopback, all on one disk.
// Benchmarks of one side live beside what they measure.
//
//	BenchmarkUpdates   journal → gRPC → commit → ACK → trim, for 1, 10, 100 slaves
//	BenchmarkLogs      spool → gRPC → commit → ACK → trim, likewise
//	BenchmarkAck       one update of an idle slave, until its ACK is there
//	BenchmarkDispatch  submit → first process on an idle slave
//	BenchmarkBuild     a build of 200 × true
//	BenchmarkLines     a step that prints a million lines
//
//	BenchmarkQueue     masters that share a PostgreSQL store empty a long queue
//	BenchmarkClaim     the statements of one round of dispatch, by the queue's length
//	BenchmarkRelay     commits with and without hints to other masters
//
// The first four run on SQLite and on PostgreSQL (store=…), which runs as a cluster
// of this process's own, with fsync. TestQueue is BenchmarkQueue as a test.
//
// The first three fake the runners: a fake one shows facts as fast as the
// agent looks, which no real step does. The next three start real runners and
// real steps; the test binary is the runner. BenchmarkQueue has no agents: its
// slaves only speak the protocol.
//
// A figure of its own says little on a machine that others use, too. So each
// one has its like beside it, measured in turns in the same run:
//
//	of-raw-append   our rate, as part of what one file takes that gets the same bytes, in
//	                the groups in which the master committed them, with one fdatasync each
//	of-copy         our rate, as part of what COPY takes on the same server for the rows that
//	                the master has appended, in the same groups, with one COMMIT each
//	x-fork+exec     our time, in times of starting the same command and waiting for it
//	x-fdatasync     our time, in times of one append of 256 bytes with fdatasync
//	x-file          our time, in times of the same command with its output in a file
//	cpu-µs/…        processor time of masters and slaves together, without PostgreSQL's
//	x-read, x-claim our time with that length of the queue, in times of that with the shortest
//	of-without      commits per second with hints, as part of those without
//
// Slaves that share a disk with each other and with the master wait for it
// in turn, which slaves on machines of their own do not: the figures for 100 are
// a lower bound.
package bench
