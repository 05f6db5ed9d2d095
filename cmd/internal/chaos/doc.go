// Package chaos runs a farm of real processes under faults from outside and
// judges what is left: `holdfast chaos`.
//
//	builds ──► master ◄── proxy ◄── slave ──► runner ──► step ──► truth
//	             ▲          ▲         ▲         ▲                   │
//	             └── faults ┴─────────┴─────────┘                   │
//	    everything healed, ended, stopped ──► judge ◄───────────────┘
//
// Master and slaves are children, of the executable they were told to be; the
// network between them is a proxy in this process for each slave.
//
// # What it guarantees
//
//   - What is held against holdfast does not come from holdfast: each step says
//     to a file of its own what it started, wrote and exited with, and the lines
//     it writes can be told from its id and their number alone.
//   - The same seed draws the same faults and builds; when they meet is up to
//     the machine.
//   - No process and no mount is left behind when Run returns, and no file
//     either if everything held.
//
// # What it does not do
//
// It cannot cut the power, and the machine is one: a disk that lies about a
// sync is not found out.
//
// # What the caller owes
//
//  1. An executable that understands `master`, `slave`, `runner`,
//     `journal-verify` and `chaos-step`, the last by calling StepMain.
//  2. Config.Stop to end early; the end of the context ends at once and judges
//     nothing.
package chaos
