package link

import (
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// maxParts bounds the elements of lists and the messages within one message of
// a slave. An empty one is two bytes on the wire and about a hundred in memory:
// without a bound, 4 MiB become 300 MiB before anybody has looked at them. The
// largest Hello has fewer, since an element of it carries an id of 26 bytes
// (P-limits).
const maxParts = 1 << 18

// tooManyParts reports whether data, a message of that type, has more than
// limit parts. It decodes nothing, and looks no deeper than the type goes.
func tooManyParts(data []byte, of protoreflect.MessageDescriptor, limit int) bool {
	if len(data)/2 <= limit {
		return false
	}
	left := limit
	return !countParts(data, of, &left)
}

// countParts takes the parts of a message from left; false: they are more. What
// is malformed ends the count, as it will end the decoding.
func countParts(data []byte, of protoreflect.MessageDescriptor, left *int) bool {
	for len(data) > 0 {
		number, typ, n := protowire.ConsumeTag(data)
		if n < 0 {
			return true
		}
		data = data[n:]
		size := protowire.ConsumeFieldValue(number, typ, data)
		if size < 0 {
			return true
		}
		field := of.Fields().ByNumber(number)
		if field != nil && typ == protowire.BytesType && (field.IsList() || field.Message() != nil) {
			if *left--; *left < 0 {
				return false
			}
			if inner := field.Message(); inner != nil {
				value, _ := protowire.ConsumeBytes(data)
				if !countParts(value, inner, left) {
					return false
				}
			}
		}
		data = data[size:]
	}
	return true
}
