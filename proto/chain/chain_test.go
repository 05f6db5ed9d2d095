package chain

import "testing"

func TestExtendSeesBoundaries(t *testing.T) {
	whole := ExtendAll(0, [][]byte{[]byte("ab"), []byte("c")})
	other := ExtendAll(0, [][]byte{[]byte("a"), []byte("bc")})
	if whole == other {
		t.Fatalf("streams that differ in boundaries have the same chain %#x", whole)
	}
	if step := Extend(Extend(0, []byte("ab")), []byte("c")); step != whole {
		t.Fatalf("Extend one by one = %#x, ExtendAll = %#x", step, whole)
	}
	if Extend(0, nil) == 0 {
		t.Fatal("an empty update leaves the chain unchanged")
	}
}

// The check value of CRC-32C, RFC 3720 appendix B.4: 32 bytes of zeroes.
func TestSumIsCastagnoli(t *testing.T) {
	if got := Sum(make([]byte, 32)); got != 0x8a9136aa {
		t.Fatalf("Sum(32 zero bytes) = %#x, want 0x8a9136aa", got)
	}
	if Update(Sum([]byte("ab")), []byte("c")) != Sum([]byte("abc")) {
		t.Fatal("Update does not continue Sum")
	}
}
