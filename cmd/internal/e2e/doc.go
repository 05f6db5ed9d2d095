// Package e2e tests holdfast from outside: the real binary, separate master
// and slave processes, a TCP proxy between them that can be cut or slow, or a
// cable between two network namespaces on which packets are lost, refused or late
// (root and nft, tc, ip; a test that misses them says so and skips), SIGSTOP, and
// kill -9, from outside or at a fail point (package failpoint) from within.
//
// What must be on a disk before it is said is read off the system calls, by
// strace. Everything else is read through the CLI that scripts use, so that its
// contract is tested on the way. Where steps have a witness of what they did, the
// stopped farm is judged as the simulation is (package judge). Tests are quick by
// default; HOLDFAST_SLOW=1 runs them with the outages that the documentation talks
// about.
package e2e
