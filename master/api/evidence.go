package api

import (
	"context"
	"fmt"
	"strings"

	"github.com/klauspost/compress/zstd"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/proto/rpcerr"
)

const (
	tailBytes     = 4 << 10 // of a log, as evidence
	tailLines     = 10
	maxTailLength = 300 // characters of one line of evidence
)

// newLogDecoder makes a decoder for stored chunks; DecodeAll is safe for
// concurrent use.
func newLogDecoder() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(16<<20))
}

// rawBytes decodes a stored chunk.
func (s *Server) rawBytes(c *store.LogChunk) ([]byte, error) {
	switch c.Codec {
	case store.CodecRaw:
		return c.Data, nil
	case store.CodecZstd:
		raw, err := s.logs.DecodeAll(c.Data, make([]byte, 0, c.RawLen))
		if err == nil && len(raw) != c.RawLen {
			err = fmt.Errorf("%d bytes instead of %d", len(raw), c.RawLen)
		}
		return raw, err
	default:
		return nil, fmt.Errorf("unknown codec %d", c.Codec)
	}
}

// lastLines returns the end of the last log an attempt wrote, as evidence.
func (s *Server) lastLines(ctx context.Context, a *lifecycle.Attempt) ([]string, error) {
	for i := len(a.Steps) - 1; i >= 0; i-- {
		step := &a.Steps[i]
		if step.LogMark == 0 {
			continue
		}
		from := max(0, step.LogMark-tailBytes)
		chunks, err := s.store.Log(ctx, step.ID, from, readAhead)
		if err != nil {
			return nil, refusal(err)
		}
		var tail []byte
		for j := range chunks {
			raw, err := s.rawBytes(&chunks[j])
			if err != nil {
				return nil, rpcerr.New(rpcerr.Internal, "log of step %s: %v", step.ID, err)
			}
			tail = append(tail, raw...)
		}
		return linesOf(tail), nil
	}
	return nil, nil
}

// linesOf returns the last lines of tail as valid, bounded text.
func linesOf(tail []byte) []string {
	text := strings.TrimRight(strings.ToValidUTF8(string(tail), "\uFFFD"), "\r\n")
	lines := strings.Split(text, "\n")
	lines = lines[max(0, len(lines)-tailLines):]
	for i, line := range lines {
		line = strings.TrimRight(line, "\r")
		if runes := []rune(line); len(runes) > maxTailLength {
			line = string(runes[:maxTailLength]) + "…"
		}
		lines[i] = line
	}
	return lines
}
