// Package pgtest runs a throw-away PostgreSQL for tests: a cluster of its own, made by initdb, that nothing but this
// process can reach and that does not outlive it. It never goes into a binary.
//
//	Database   a fresh database for one test, in the cluster that all tests of the process share
//	Shared     that cluster
//	Start      a cluster of one's own, to be stopped, killed and started again
//
// # What it guarantees
//
// The server ends with the process that started it, also if that is killed with -9: the kernel sends it SIGQUIT (on
// Linux; elsewhere it ends within a minute, once it misses its files). The directories go then, too: a child in a
// session of its own waits for the end of a pipe that only this process holds, and removes them.
//
//	test process ──┬── postgres      parent death signal; its children hold one end of a pipe, see process
//	               └── sh (remover)  waits until the test process is gone, then removes the directories
//
// PostgreSQL refuses to run as root. Started by root it runs as the user postgres, or nobody where there is none.
//
// # What it does not
//
// A power cut is not simulated: a killed server loses nothing that it gave to the kernel, fsync or not.
//
// # What the caller owes
//
//  1. Close every cluster that Start returned. Shared needs nothing.
//  2. As root, a Config.Dir that the server's user can reach: testing.TB's TempDir is not, Config.In is.
package pgtest
