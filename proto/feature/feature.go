// Package feature names what peers may agree on beyond v1 (P-feature). A session
// uses the names that both sides have said; no version is ever compared. A name
// is never used for anything else.
package feature

// Recover: a slave answers `unknown` with all that a store which was restored
// from an older copy needs to take an attempt in again (P-recover).
const Recover = "recover"

// All are the features that this version can use, in the order in which they came.
var All = []string{Recover}
