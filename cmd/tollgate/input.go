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

// openable says of all files at once which cannot be opened, before anything is done with the first. What is
// no plain file must only be there: a pipe can be opened once.
func openable(names []string) error {
	var problems []error
	for _, name := range names {
		if name == "-" {
			continue
		}
		if info, err := os.Stat(name); err != nil || !info.Mode().IsRegular() && !info.IsDir() {
			problems = append(problems, err)
			continue
		}
		file, _, err := openInput(nil, name)
		if err == nil {
			err = file.Close()
		}
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}

// plain decompresses gzip, which it knows by its first bytes, refuses what is packed otherwise, and leaves
// everything else as it is.
func plain(r io.Reader) (*bufio.Reader, error) {
	buffered := bufio.NewReaderSize(r, decode.MaxRecordBytes)
	head, err := buffered.Peek(6)
	if err != nil && err != io.EOF {
		return nil, err
	}
	if unpack := packedBy(head); unpack != "" {
		return nil, fmt.Errorf("it is packed; only gzip is read: %s FILE | tollgate …", unpack)
	}
	if !bytes.HasPrefix(head, []byte("\x1f\x8b")) {
		return buffered, nil
	}
	unzipped, err := gzip.NewReader(buffered)
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	return bufio.NewReaderSize(unzipped, decode.MaxRecordBytes), nil
}

// lineEnds refuses text whose lines end with a carriage return alone: it would be one giant line. JSON may
// have any white space between objects.
func lineEnds(text *bufio.Reader) error {
	head, err := text.Peek(decode.MaxRecordBytes)
	if err != nil && err != io.EOF && len(head) == 0 {
		return err
	}
	first := bytes.TrimLeft(head, "\ufeff \t\r")
	if bytes.IndexByte(head, '\n') >= 0 || bytes.IndexByte(bytes.TrimRight(first, " \t\r"), '\r') < 0 ||
		first[0] == '{' || first[0] == '[' {
		return nil
	}
	return errors.New("its lines end with a carriage return alone, as on old Macs; " + decode.CROnlyHint)
}

// packedBy is the command that unpacks what begins with head, where nothing here does; "" where that is not
// packed, or by gzip. Lines cut from packed bytes would all be rejected, one by one.
func packedBy(head []byte) string {
	for _, known := range [...]struct{ magic, unpack string }{{"BZh", "bzcat"}, {"PK\x03\x04", "unzip -p"},
		{"\xfd7zXZ\x00", "xzcat"}, {"\x28\xb5\x2f\xfd", "zstdcat"}} {
		if bytes.HasPrefix(head, []byte(known.magic)) {
			return known.unpack
		}
	}
	return ""
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
