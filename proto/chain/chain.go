// Package chain computes the chained CRC-32C of an attempt's update stream
// (P-apply, P-diverged).
//
// The chain runs over the whole stream so far: each update adds its length and
// its encoded bytes, so that two streams with the same chain have the same
// updates with the same boundaries, as far as 32 bits can tell. It guards
// against a slave or a store that went back in time, against clones, and
// against bugs; it is no defence against an attacker.
package chain

import (
	"encoding/binary"
	"hash/crc32"
)

// Table is CRC-32C (Castagnoli), RFC 3720 appendix B.4; also used for log
// bytes.
var Table = crc32.MakeTable(crc32.Castagnoli)

// Extend returns the chain after update was added to a stream whose chain was
// crc. The chain of an empty stream is 0 (P-chain).
func Extend(crc uint32, update []byte) uint32 {
	var length [4]byte
	binary.LittleEndian.PutUint32(length[:], uint32(len(update)))
	crc = crc32.Update(crc, Table, length[:])
	return crc32.Update(crc, Table, update)
}

// ExtendAll is Extend over several updates.
func ExtendAll(crc uint32, updates [][]byte) uint32 {
	for _, u := range updates {
		crc = Extend(crc, u)
	}
	return crc
}

// Sum is the CRC-32C of log bytes, Update its continuation.
func Sum(p []byte) uint32 { return crc32.Checksum(p, Table) }

// Update continues a CRC-32C of log bytes.
func Update(crc uint32, p []byte) uint32 { return crc32.Update(crc, Table, p) }
