package invariant

// combineCRC returns the CRC-32C of a text followed by another one, from the
// CRCs of both and the length of the second: the first is carried through as
// many zero bytes (zlib's crc32_combine).
func combineCRC(first, second uint32, length int64) uint32 {
	if length <= 0 {
		return first
	}
	// Odd is the operator for one zero bit; squaring doubles.
	var even, odd [32]uint32
	odd[0] = 0x82f63b78 // Castagnoli, reflected
	for i := 1; i < 32; i++ {
		odd[i] = 1 << (i - 1)
	}
	square(&even, &odd) // two bits
	square(&odd, &even) // four bits
	for n := length; ; {
		square(&even, &odd)
		if n&1 != 0 {
			first = times(&even, first)
		}
		if n >>= 1; n == 0 {
			break
		}
		square(&odd, &even)
		if n&1 != 0 {
			first = times(&odd, first)
		}
		if n >>= 1; n == 0 {
			break
		}
	}
	return first ^ second
}

// times multiplies a matrix over GF(2) by a vector.
func times(m *[32]uint32, v uint32) uint32 {
	var sum uint32
	for i := 0; v != 0; i, v = i+1, v>>1 {
		if v&1 != 0 {
			sum ^= m[i]
		}
	}
	return sum
}

// square sets to to from · from.
func square(to, from *[32]uint32) {
	for i := range from {
		to[i] = times(from, from[i])
	}
}
