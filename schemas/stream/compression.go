package stream

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/segmentio/kafka-go/compress"
)

// Record batches are compressed by gzip, snappy, LZ4 or zstd, as their producer chose; whatever they claim,
// no batch makes us allocate more than maxInflated.

// inflate decompresses into the arena and returns the new part. Where the arena moves, earlier records keep
// the old memory, so they stay valid.
func (r *batchReader) inflate(codec compress.Compression, payload []byte) (out []byte, err error) {
	start := len(r.arena)
	if need := start + min(8*len(payload), maxArena); cap(r.arena) < need {
		grown := make([]byte, start, need+need/4)
		copy(grown, r.arena)
		r.arena = grown
	}
	switch codec {
	case compress.Snappy:
		err = r.unsnap(payload)
	case compress.Zstd:
		err = r.unzstd(payload)
	default:
		err = r.stream(codec, payload)
	}
	if err == nil && len(r.arena)-start > maxInflated {
		err = fmt.Errorf("decompresses to more than %d MiB", maxInflated>>20)
	}
	if err != nil {
		return nil, corrupt("%s: %v", codec, err)
	}
	end := len(r.arena)
	return r.arena[start:end:end], nil
}

// stream decompresses gzip and LZ4, whose blocks are small, with kafka-go's codecs.
func (r *batchReader) stream(codec compress.Compression, payload []byte) error {
	c := codec.Codec()
	if c == nil {
		return errors.New("no such compression")
	}
	r.source.Reset(payload)
	in := c.NewReader(&r.source)
	defer in.Close()
	for empty, start := 0, len(r.arena); empty < 100; empty++ {
		if len(r.arena) == cap(r.arena) {
			r.arena = append(r.arena, 0)[:len(r.arena)]
		}
		n, err := in.Read(r.arena[len(r.arena):cap(r.arena)])
		if r.arena = r.arena[:len(r.arena)+n]; n > 0 {
			empty = 0
		}
		if errors.Is(err, io.EOF) || len(r.arena)-start > maxInflated {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

// xerial begins the framing of blocks that Java's snappy writes, and with it most of Kafka's clients.
const xerial = "\x82SNAPPY\x00"

// unsnap decompresses snappy. kafka-go's codec believes the length that a block claims, up to 4 GiB for a few
// bytes.
func (r *batchReader) unsnap(payload []byte) error {
	if !bytes.HasPrefix(payload, []byte(xerial)) {
		return r.unsnapBlock(payload)
	}
	if len(payload) < len(xerial)+8 {
		return io.ErrUnexpectedEOF
	}
	for rest := payload[len(xerial)+8:]; len(rest) > 0; { // 8: two version numbers
		if len(rest) < 4 {
			return io.ErrUnexpectedEOF
		}
		size := binary.BigEndian.Uint32(rest)
		if rest = rest[4:]; uint64(size) > uint64(len(rest)) {
			return io.ErrUnexpectedEOF
		}
		if err := r.unsnapBlock(rest[:size]); err != nil {
			return err
		}
		rest = rest[size:]
	}
	return nil
}

func (r *batchReader) unsnapBlock(block []byte) error {
	size, err := snappy.DecodedLen(block)
	if err != nil {
		return err
	}
	start := len(r.arena)
	if size > maxInflated || start+size > maxArena+maxInflated {
		return fmt.Errorf("decompresses to more than %d MiB", maxInflated>>20)
	}
	r.arena = slices.Grow(r.arena, size)[:start+size]
	_, err = snappy.Decode(r.arena[start:], block)
	return err
}

// unzstd decompresses zstd, with bounds for the window and the result that kafka-go's codec does not set.
func (r *batchReader) unzstd(payload []byte) (err error) {
	if r.zstd == nil {
		r.zstd, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxMemory(maxArena+maxInflated), zstd.WithDecoderMaxWindow(maxInflated))
		if err != nil {
			return err
		}
	}
	out, err := r.zstd.DecodeAll(payload, r.arena)
	if err != nil {
		return err
	}
	r.arena = out
	return nil
}

type appender struct{ b []byte }

func (a *appender) Write(p []byte) (int, error) {
	a.b = append(a.b, p...)
	return len(p), nil
}

func deflate(b []byte, codec compress.Compression, plain []byte) ([]byte, error) {
	if codec == compress.Snappy {
		return appendSnappy(b, plain), nil
	}
	out := &appender{b: b}
	w := codec.Codec().NewWriter(out)
	if _, err := w.Write(plain); err != nil {
		return nil, fmt.Errorf("compress %d bytes with %s: %w", len(plain), codec, err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("compress %d bytes with %s: %w", len(plain), codec, err)
	}
	return out.b, nil
}

// appendSnappy compresses into one block, of any size, in the framing that every client reads: Java's has
// blocks of 32 KiB, and believes what a block says of itself.
func appendSnappy(b, plain []byte) []byte {
	b = append(b, xerial...)
	b = append(b, 0, 0, 0, 1, 0, 0, 0, 1) // its version, and the oldest that reads it
	head := len(b)
	b = slices.Grow(b, 4+s2.MaxEncodedLen(len(plain)))
	block := s2.EncodeSnappy(b[head+4:cap(b)], plain)
	return append(binary.BigEndian.AppendUint32(b, uint32(len(block))), block...) // it is there already
}
