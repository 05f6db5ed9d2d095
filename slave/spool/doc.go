// Package spool keeps the raw output of one step on the slave's disk until a
// master has committed it (P-durable, P-log).
//
// What it guarantees: bytes whose Write has returned outlive every process;
// bytes whose Sync has returned outlive the machine. Bytes are read back
// exactly, in order, or named as torn: each record carries a CRC-32C. A full
// disk or quota is told (ErrFull) with nothing written and nothing advanced,
// so that the writer can wait and try again; nothing is ever dropped.
//
// What it does not: survive a power cut unsynced. A torn tail is found, not
// mended.
//
// One process writes (the runner), another reads and trims (the agent); they
// share nothing but the files:
//
//	steps/0001/log/00000000000000000000.seg    raw offset of the first byte
//	               00000000000001048576.seg    …
//
// # Segment
//
// All integers are little endian.
//
//	 0       4         6         8              16          20      28     32
//	+-------+---------+---------+--------------+-----------+-------+------+
//	| HFSP  | version | length  | base offset  | prefix crc| zero  | crc  |  header
//	+-------+---------+---------+--------------+-----------+-------+------+
//
//	 0        4      8         16       24       25     28
//	+--------+------+---------+--------+--------+------+-------------------+
//	| length | crc  | offset  | time   | stream | zero | data …            |  record
//	+--------+------+---------+--------+--------+------+-------------------+
//
// The header's crc covers the 28 bytes before it; prefix crc is the CRC-32C of
// all raw bytes before the segment, so that a log's CRC is known after ACKed
// segments are gone (P-log-state). A record's crc covers everything behind it.
// Time is in microseconds since the Unix epoch by the slave's wall clock;
// stream is 1 for stdout, 2 for stderr.
//
// The caller owes: one Writer per directory; Trim only up to what was ACKed.
package spool
