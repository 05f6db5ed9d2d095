// Package bench measures both sides together: a real master, real agents,
// real journals, SQLite, and gRPC over TCP on the loopback, all on one disk.
// Benchmarks of one side live beside what they measure.
//
//	BenchmarkUpdates   journal → gRPC → commit → ACK → trim, for 1, 10, 100 slaves
//	BenchmarkLogs      spool → gRPC → commit → ACK → trim, likewise
//	BenchmarkAck       one update of an idle slave, until its ACK is there
//	BenchmarkDispatch  submit → first process on an idle slave
//	BenchmarkBuild     a build of 200 × true
//	BenchmarkLines     a step that prints a million lines
//
// The first three fake the runners: a fake one shows facts as fast as the
// agent looks, which no real step does. The last three start real runners and
// real steps; the test binary is the runner.
//
// A figure of its own says little on a machine that others use, too. So each
// one has its like beside it, measured in turns in the same run:
//
//	of-raw-append   our rate, as part of what one file takes that gets the same bytes, in
//	                the groups in which the master committed them, with one fdatasync each
//	x-fork+exec     our time, in times of starting the same command and waiting for it
//	x-fdatasync     our time, in times of one append of 256 bytes with fdatasync
//	x-file          our time, in times of the same command with its output in a file
//	cpu-µs/…        processor time of master and slaves together
//
// Slaves that share a disk with each other and with the master wait for it
// in turn, which slaves on machines of their own do not: the figures for 100 are
// a lower bound.
package bench
