package link

import (
	"github.com/klauspost/compress/zstd"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/proto/chain"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

// logPlace names the place of a log frame, bounded and in range whatever came.
func logPlace(attempt, step string, offset int64, raw []byte) *frameError {
	if step == "" {
		step = "?"
	}
	return &frameError{
		attempt: lifecycle.AttemptID(attempt), step: lifecycle.StepID(text(step, maxIDSize)),
		offset: min(max(offset, 0), maxOffset), raw: raw,
	}
}

// decodeLog translates a LogChunk and checks it: size, codec and CRC-32C of
// the raw bytes (P-log). The chunk is stored as it came, compressed once for
// the wire and the store alike.
func decodeLog(m *holdfastv1.LogChunk, limits *holdfastv1.Limits, zd *zstd.Decoder) (*store.ApplyLog, error) {
	place := logPlace(m.GetAttemptId(), m.GetStepId(), m.GetOffset(), m.GetData())
	bad := func(format string, args ...any) error { return place.because(rpcerr.BadFrame, format, args...) }
	size := int(m.GetRawLength())
	switch {
	case !validID(m.GetStepId()):
		return nil, bad("the step is no ULID")
	case m.GetOffset() < 0 || m.GetOffset() > maxOffset-int64(size):
		return nil, bad("offset %d is out of range", m.GetOffset())
	case size == 0:
		return nil, bad("an empty chunk")
	case size > int(limits.GetMaxChunkBytes()):
		return nil, place.because(rpcerr.TooLarge, "%d bytes exceed the limit of %d", size, limits.GetMaxChunkBytes())
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
			return nil, bad("zstd, %d bytes told: %v", size, err)
		}
	default:
		return nil, bad("unknown codec %v", m.GetCodec())
	}
	if len(raw) != size {
		return nil, bad("holds %d bytes but says %d", len(raw), size)
	}
	if len(chunk.Data) > size+maxOverhead {
		return nil, place.because(rpcerr.TooLarge, "%d bytes were made of %d", len(chunk.Data), size)
	}
	if crc := chain.Sum(raw); crc != m.GetCrc() {
		return nil, bad("CRC-32C is %08x but should be %08x", crc, m.GetCrc())
	}
	at := -1
	for _, mark := range m.GetMarks() {
		switch stream := mark.GetStream(); {
		case int(mark.GetAt()) <= at || int(mark.GetAt()) >= size:
			return nil, bad("time marks are out of order")
		case stream < 0 || stream > holdfastv1.OutputStream_OUTPUT_STREAM_STDERR:
			return nil, bad("unknown output stream %d", stream)
		}
		at = int(mark.GetAt())
		chunk.Marks = append(chunk.Marks, store.TimeMark{At: at, TimeUS: mark.GetTimeUs(), Stream: int(mark.GetStream())})
	}
	return &store.ApplyLog{Attempt: place.attempt, Step: place.step, Chunk: chunk, Raw: raw}, nil
}

// maxOverhead is how much larger than its raw bytes a chunk may be: a codec
// adds a header, and a hostile one skippable frames.
const maxOverhead = 4 << 10

// decodeLogGap translates a LogGap.
func decodeLogGap(m *holdfastv1.LogGap) (*store.ApplyLogGap, error) {
	place := logPlace(m.GetAttemptId(), m.GetStepId(), m.GetFromOffset(), rawOf(m))
	from, to := m.GetFromOffset(), m.GetToOffset()
	switch {
	case !validID(m.GetStepId()):
		return nil, place.because(rpcerr.BadFrame, "the step is no ULID")
	case from < 0 || to <= from || to > maxOffset:
		return nil, place.because(rpcerr.BadFrame, "a gap from %d to %d", from, to)
	}
	return &store.ApplyLogGap{
		Attempt: place.attempt, Step: place.step, From: from, To: to,
		Torn: m.GetTorn(), Reason: text(m.GetReason(), maxDetail),
	}, nil
}

// newLogDecoder makes a decoder that never decodes beyond the room it is given,
// which is what the chunk says it holds.
func newLogDecoder() (*zstd.Decoder, error) {
	return zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(0),
		zstd.WithDecoderLowmem(true),
		zstd.WithDecodeAllCapLimit(true))
}
