package link

import (
	"fmt"

	"github.com/klauspost/compress/zstd"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/proto/chain"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

// decodeLog translates a LogChunk and checks it: size, codec and CRC-32C of
// the raw bytes. The chunk is stored as it came, compressed once for the wire
// and the store alike.
func decodeLog(m *holdfastv1.LogChunk, limits *holdfastv1.Limits, zd *zstd.Decoder) (*store.ApplyLog, error) {
	attempt := lifecycle.AttemptID(m.GetAttemptId())
	refuse := func(format string, args ...any) error {
		why := fmt.Sprintf(format, args...)
		return &frameError{attempt: attempt, why: fmt.Sprintf("log of step %s at offset %d: %s", m.GetStepId(), m.GetOffset(), why)}
	}
	size := int(m.GetRawLength())
	switch {
	case m.GetOffset() < 0 || m.GetOffset()+int64(size) < m.GetOffset():
		return nil, refuse("the offset is out of range")
	case size == 0:
		return nil, refuse("an empty chunk")
	case size > int(limits.GetMaxChunkBytes()):
		return nil, refuse("%d bytes exceed the limit of %d", size, limits.GetMaxChunkBytes())
	}
	chunk := store.LogChunk{Offset: m.GetOffset(), RawLen: size, Data: m.GetData(), CRC: m.GetCrc()}
	raw := m.GetData()
	switch m.GetCodec() {
	case holdfastv1.LogChunk_CODEC_RAW:
		chunk.Codec = store.CodecRaw
	case holdfastv1.LogChunk_CODEC_ZSTD:
		chunk.Codec = store.CodecZstd
		var err error
		if raw, err = zd.DecodeAll(raw, make([]byte, 0, size)); err != nil {
			return nil, refuse("zstd: %v", err)
		}
	default:
		return nil, refuse("unknown codec %v", m.GetCodec())
	}
	if len(raw) != size {
		return nil, refuse("holds %d bytes but says %d", len(raw), size)
	}
	if crc := chain.Sum(raw); crc != m.GetCrc() {
		return nil, refuse("CRC-32C is %08x but should be %08x", crc, m.GetCrc())
	}
	at := -1
	for _, mark := range m.GetMarks() {
		if int(mark.GetAt()) <= at || int(mark.GetAt()) >= size {
			return nil, refuse("time marks are out of order")
		}
		at = int(mark.GetAt())
		chunk.Marks = append(chunk.Marks, store.TimeMark{At: at, TimeUS: mark.GetTimeUs(), Stream: int(mark.GetStream())})
	}
	return &store.ApplyLog{
		Attempt: attempt,
		Step:    lifecycle.StepID(m.GetStepId()),
		Chunk:   chunk,
		Raw:     raw,
	}, nil
}

// newLogDecoder makes a decoder whose memory a hostile chunk cannot blow up.
func newLogDecoder(limits *holdfastv1.Limits) (*zstd.Decoder, error) {
	return zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(uint64(limits.GetMaxChunkBytes())))
}
