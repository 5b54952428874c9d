package main

import (
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"

	"tollgate/collector/decode"
)

// This file opens what tools read: files, plain or gzip, and standard input.

// openInput opens a file, or standard input for "-". size is -1 where it is not known.
func openInput(a *app, name string) (io.ReadCloser, int64, error) {
	if name == "-" {
		if isTerminal(a.in) {
			fmt.Fprintln(a.err, "reading standard input; Ctrl-D ends it")
		}
		return io.NopCloser(a.in), -1, nil
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	if info.IsDir() {
		return nil, 0, errors.Join(fmt.Errorf("%s is a folder; name its files", name), file.Close())
	}
	return file, info.Size(), nil
}

// plain decompresses gzip, which it knows by its first bytes, and leaves everything else as it is.
func plain(r io.Reader) (*bufio.Reader, error) {
	buffered := bufio.NewReaderSize(r, decode.MaxRecordBytes)
	if magic, _ := buffered.Peek(2); !bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		return buffered, nil
	}
	unzipped, err := gzip.NewReader(buffered)
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	return bufio.NewReaderSize(unzipped, decode.MaxRecordBytes), nil
}

// damaged says that an error of reading is one of the compressed data, where it is.
func damaged(err error) error {
	var corrupt flate.CorruptInputError
	if !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, gzip.ErrHeader) &&
		!errors.Is(err, gzip.ErrChecksum) && !errors.As(err, &corrupt) {
		return err
	}
	return fmt.Errorf("the gzip data is damaged or cut short: %w", err)
}
