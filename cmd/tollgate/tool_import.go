package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/sync/errgroup"

	"tollgate/collector"
	"tollgate/collector/decode"
	"tollgate/schemas"
	"tollgate/schemas/stream"
)

// importCommand produces the events of files to access-events, as history.
type importCommand struct {
	Files    []string `arg:"" optional:"" help:"Access logs, plain or gzip; - or none is standard input."`
	Format   string   `help:"Format of the files; found automatically where it is left out. See tollgate formats list."`
	Source   string   `default:"import" help:"Name of the source; together with id and time it identifies an event."`
	Customer string   `default:"credential" enum:"credential,ip,event" help:"How customers are found: ${enum}. ip makes each client address a customer."`
	Live     bool     `help:"Treat the events as live: they count against quotas and are watched."`
	Amend    bool     `help:"The files may amend and void events."`
	By       string   `help:"Who amends and voids, for the audit log; default: the user of this machine." placeholder:"NAME"`
	Wait     bool     `help:"Wait until everything is in usage."`
	form
}

// Limits of an import: a record is what the collector decodes at once; a handful in flight keeps every
// partition busy.
const (
	importRecordBytes  = 256 << 10
	importRecordEvents = 500 // half of what a record may hold: JSON arrays of one line count as several
	importBatchRecords = 16
	importInFlight     = 8
	importLongLine     = 64 << 10 // how much of an overlong line goes on, to be rejected where it can be seen
)

// imported is what a run of import did; the numbers of the second half need --wait.
type imported struct {
	Files      int     `json:"files"`
	Read       int64   `json:"events_read"`
	Bytes      int64   `json:"bytes_read"`
	Records    int     `json:"records"`
	Seconds    float64 `json:"seconds"`
	Waited     bool    `json:"in_usage"`
	Published  int64   `json:"published"`
	Rejected   int64   `json:"rejected"`
	New        int64   `json:"new"`
	Duplicates int64   `json:"duplicates"`
	Nobodys    int64   `json:"without_customer"` // of the new ones

	offsets map[int]offsetSpan // partition → what this run wrote
	ids     []string           // of its files
}

type offsetSpan struct{ first, last int64 }

// Run imports every file, and with --wait follows it into usage.
func (c *importCommand) Run(a *app) error {
	if _, known := decode.Lookup(c.Format); c.Format != "" && !known {
		return fmt.Errorf("--format %q is unknown; `tollgate formats list` names them", c.Format)
	}
	if c.Source == "" || len(c.Source) > collector.MaxSource ||
		strings.ContainsFunc(c.Source, unicode.IsControl) {
		return fmt.Errorf("--source %.80q: want a name of at most %d bytes, without control characters",
			c.Source, collector.MaxSource)
	}
	if err := openable(c.Files); err != nil {
		return fmt.Errorf("nothing was imported: %w", err)
	}
	started := time.Now()
	return a.withRoles(rolesOfTool, func(r *roles) error {
		wait := c.Wait || !r.p.joined && r.p.folder != nil // nobody else would carry on with it
		before, nobodys, err := r.reader.Keys(a.ctx, c.Source)
		if err != nil {
			return err
		}
		result, err := c.produce(a, r.p)
		if err != nil {
			return err
		}
		if wait {
			if err := r.settle(a.ctx, a.err); err != nil {
				return err
			}
			if err := c.account(a.ctx, r, before, nobodys, result); err != nil {
				return err
			}
		}
		result.Seconds = time.Since(started).Seconds()
		return c.print(a, result)
	})
}

// account tells new events from duplicates: what the source's set of keys grew by, and what is left of the
// published. Of the new ones it counts those that nobody pays for.
func (c *importCommand) account(ctx context.Context, r *roles, before,
	nobodys int64, result *imported) error {
	after, left, err := r.reader.Keys(ctx, c.Source)
	if err != nil {
		return err
	}
	for partition, span := range result.offsets {
		n, err := r.reader.RejectedCount(ctx, result.ids, stream.TopicAccessEvents, partition,
			span.first, span.last)
		if err != nil {
			return err
		}
		result.Rejected += n
	}
	result.Waited = true
	result.Published = result.Read - result.Rejected
	result.New = after - before
	result.Nobodys = max(0, left-nobodys)
	result.Duplicates = result.Published - result.New
	return nil
}

func (c *importCommand) print(a *app, result *imported) error {
	t := &table{columns: []string{"what", "number"}, items: result}
	t.add("files", fmt.Sprint(result.Files))
	t.add("events read", fmt.Sprint(result.Read))
	if !result.Waited {
		fmt.Fprintln(a.err, "not waited for: usage follows as the running program gets to it; --wait tells "+
			"what became of it")
	} else {
		t.add("published", fmt.Sprint(result.Published))
		t.add("new", fmt.Sprint(result.New))
		t.add("duplicates", fmt.Sprint(result.Duplicates))
		t.add("rejected", fmt.Sprint(result.Rejected))
	}
	t.add("seconds", fmt.Sprintf("%.1f", result.Seconds))
	if err := a.show(t, c.Output); err != nil {
		return err
	}
	return c.verdict(a, result)
}

// verdict says what a person should know about the result: a file of which nothing could be used is the wrong
// file or the wrong format, and fails the command; single rejected lines are every log's lot.
func (c *importCommand) verdict(a *app, result *imported) error {
	list := fmt.Sprintf("`tollgate rejected list --source %s` shows lines, reasons and how to fix them",
		c.Source)
	switch {
	case result.Read == 0:
		fmt.Fprintln(a.err, "there was no event to import: the input is empty")
	case result.Rejected > 0 && result.Rejected >= result.Read:
		fmt.Fprintf(a.err, "tollgate: nothing was imported: all %d events were rejected; is it "+
			"the right file and --format? %s\n", result.Read, list)
		return errReported
	case result.Rejected > 0:
		fmt.Fprintf(a.err, "%d of %d events could not be used; %s\n", result.Rejected, result.Read, list)
	}
	if result.Nobodys > 0 {
		fmt.Fprintf(a.err, "%d new events have no customer, so that nobody pays for them: `tollgate usage "+
			"--customer ''` counts them; %s\n", result.Nobodys, c.customerHint())
	}
	return nil
}

// customerHint says how events that have no customer find one.
func (c *importCommand) customerHint() string {
	if c.Customer == "ip" {
		return "they say no client"
	}
	return "`tollgate formats test FILE` says whether they show a credential at all, `tollgate key add` " +
		"whose it is; to make each client address a customer, import again with --customer ip, which " +
		"counts nothing twice"
}

// produce reads the files one after the other and writes their events; parts of a file go to all partitions
// at once.
func (c *importCommand) produce(a *app, p *parts) (*imported, error) {
	files := c.Files
	if len(files) == 0 {
		files = []string{"-"}
	}
	producer, err := p.kafka.NewProducer(stream.ProducerOptions{})
	if err != nil {
		return nil, err
	}
	grant, err := c.granter(a)
	if err != nil {
		return nil, errors.Join(err, producer.Close())
	}
	result := &imported{offsets: map[int]offsetSpan{}}
	group, ctx := errgroup.WithContext(a.ctx)
	batches := make(chan []stream.Record)
	positions := make(chan []stream.Position, importInFlight)
	for range importInFlight {
		group.Go(func() error {
			for batch := range batches {
				if err := grant(batch); err != nil {
					return err
				}
				at, err := producer.Produce(ctx, batch)
				if err != nil {
					return err
				}
				positions <- at
			}
			return nil
		})
	}
	noted := make(chan struct{})
	go func() {
		defer close(noted)
		for list := range positions {
			result.note(list)
		}
	}()
	group.Go(func() error {
		defer close(batches)
		for _, name := range files {
			before := result.Read
			if err := c.file(ctx, a, name, batches, result); err != nil {
				return fmt.Errorf("import %s: %w%s", name, damaged(err), sentBefore(result.Read-before))
			}
			result.Files++
		}
		return nil
	})
	err = group.Wait()
	close(positions)
	<-noted
	return result, errors.Join(err, producer.Close())
}

// granter gives records the right to amend, where the command line does.
func (c *importCommand) granter(a *app) (func([]stream.Record) error, error) {
	if !c.Amend {
		return func([]stream.Record) error { return nil }, nil
	}
	hasher, err := newHasher(a.config)
	return func(batch []stream.Record) error {
		for i := range batch {
			if err := collector.GrantAmend(hasher, who(c.By), &batch[i]); err != nil {
				return err
			}
		}
		return nil
	}, err
}

// sentBefore says what is in already where a file could be read only in part.
func sentBefore(events int64) string {
	if events == 0 {
		return ""
	}
	return fmt.Sprintf("; %d events before it were sent: import the whole file again when it is "+
		"mended, which counts nothing twice", events)
}

func (r *imported) note(list []stream.Position) {
	for _, at := range list {
		span, ok := r.offsets[at.Partition]
		if !ok {
			span = offsetSpan{at.Offset, at.Offset}
		}
		r.offsets[at.Partition] = offsetSpan{min(span.first, at.Offset), max(span.last, at.Offset)}
		r.Records++
	}
}

// file cuts one file into records. An event without an id of its own is known by the file's first line and
// the byte at which it begins (law 1), so that importing the file again counts nothing twice.
func (c *importCommand) file(ctx context.Context, a *app, name string,
	batches chan<- []stream.Record, result *imported) error {
	raw, size, err := openInput(a, name)
	if err != nil {
		return err
	}
	defer raw.Close()
	bar := newBar(a.err, name, size)
	defer bar.Finish() //nolint:errcheck // a picture only
	counted := progressbar.NewReader(raw, bar)
	text, err := plain(&counted)
	if err != nil {
		return err
	}
	if err := lineEnds(text); err != nil {
		return err
	}
	id, err := fileID(text)
	if err != nil {
		return err
	}
	format := c.Format
	if format == "" {
		if format, err = foundFormat(text); err != nil {
			return err
		}
	}
	result.ids = append(result.ids, id)
	cut := cutter{headers: c.headers(format), fileID: id}
	for piece, err := range decode.ReadFile(text, format) {
		if err != nil && !errors.Is(err, decode.ErrTooLong) {
			return err
		}
		result.Read++
		result.Bytes += int64(len(piece.Value))
		if !cut.fits(piece) {
			if err := send(ctx, batches, cut.take(importBatchRecords)); err != nil {
				return err
			}
		}
		cut.add(piece, err != nil)
	}
	return send(ctx, batches, cut.take(0))
}

func send(ctx context.Context, batches chan<- []stream.Record, batch []stream.Record) error {
	if len(batch) == 0 {
		return nil
	}
	select {
	case batches <- batch:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// formatLines is how many of a file's first lines are tried for its format; a log seldom begins with so many
// torn ones.
const formatLines = 100

// foundFormat finds out what a file is by the first of its lines that some format can read, so that every
// line that does not fit is rejected by itself. Where none can be read, what a line looks like must do, if it
// is text at all.
func foundFormat(text *bufio.Reader) (string, error) {
	head, err := text.Peek(decode.MaxRecordBytes)
	if err != nil && err != io.EOF && len(head) == 0 {
		return "", err
	}
	tried, like := 0, ""
	for piece, err := range decode.ReadFile(bytes.NewReader(head), "") {
		if err != nil || tried == formatLines {
			break
		}
		tried++
		format := decode.Detect(piece.Value, nil)
		if format == "" {
			continue
		}
		if len(decode.Inspect(format, decode.Record{Value: piece.Value}).Events) > 0 {
			return format, nil
		}
		if like == "" && utf8.Valid(piece.Value) && bytes.IndexByte(piece.Value, 0) < 0 {
			like = format
		}
	}
	switch {
	case like != "":
		return like, nil
	case tried == 0:
		return decode.Native, nil // a file without a line has no event in any format
	case bytes.HasPrefix(head, []byte("\xff\xfe")) || bytes.HasPrefix(head, []byte("\xfe\xff")):
		return "", errors.New("it is UTF-16 text; convert it first: iconv -f UTF-16 -t UTF-8 FILE | " +
			"tollgate import …")
	}
	return "", fmt.Errorf("none of the %d lines or objects looked at is in a known format; `tollgate "+
		"formats list` names them, --format says which one it is", tried)
}

func (c *importCommand) headers(format string) []stream.Header {
	mode := schemas.History
	if c.Live {
		mode = schemas.Live
	}
	headers := []stream.Header{{Key: stream.HeaderMode, Value: []byte(mode.String())},
		{Key: stream.HeaderSource, Value: []byte(c.Source)},
		{Key: collector.HeaderCustomer, Value: []byte(c.Customer)}}
	if format != "" {
		headers = append(headers, stream.Header{Key: stream.HeaderFormat, Value: []byte(format)})
	}
	return headers
}

// cutter gathers pieces of a file into records whose value has each piece at its place in the file.
type cutter struct {
	headers []stream.Header
	fileID  string

	value  []byte
	events int
	offset int64 // of value's first byte in the file
	line   int64 // of value's first line
	lines  int64 // begun within value
	ready  []stream.Record
}

// fits tells whether the piece can join the record that is open.
func (c *cutter) fits(p decode.Piece) bool {
	gap := p.Offset - c.offset - int64(len(c.value))
	return c.events == 0 || c.events < importRecordEvents && gap >= 0 && gap < 1024 &&
		len(c.value)+int(gap)+len(p.Value) <= importRecordBytes
}

func (c *cutter) add(p decode.Piece, long bool) {
	if long {
		p.Value = p.Value[:min(len(p.Value), importLongLine)]
	}
	if c.events == 0 {
		c.offset, c.line, c.lines = p.Offset, p.Line, 0
	} else {
		// What stood between two pieces is white space and commas: as much of it again, with as many line
		// ends.
		gap := int(p.Offset - c.offset - int64(len(c.value)))
		ends := int(p.Line - c.line - c.lines)
		c.value = append(c.value, strings.Repeat("\r", max(0, gap-ends))...)
		c.value = append(c.value, strings.Repeat("\n", min(gap, ends))...)
	}
	c.value = append(c.value, p.Value...)
	c.lines = p.Line - c.line + int64(bytes.Count(p.Value, []byte("\n")))
	c.events++
	if long { // the rest of the line is missing: nothing may follow at a wrong place
		c.close()
	}
}

func (c *cutter) close() {
	if c.events == 0 {
		return
	}
	c.ready = append(c.ready, stream.Record{Topic: stream.TopicAccessEvents, Partition: stream.AnyPartition,
		Value: c.value, Headers: slices.Concat(c.headers, collector.FileHeaders(c.fileID, c.offset, c.line))})
	c.value, c.events = make([]byte, 0, len(c.value)+1024), 0
}

// take closes the open record and gives what is ready once it is at least so many records.
func (c *cutter) take(least int) []stream.Record {
	c.close()
	if len(c.ready) < least {
		return nil
	}
	batch := c.ready
	c.ready = nil
	return batch
}

// fileID is "f" and the hash of the file's first complete line, of which at most 1 MiB is looked at.
func fileID(r *bufio.Reader) (string, error) {
	head, err := r.Peek(decode.MaxRecordBytes)
	if err != nil && err != io.EOF && len(head) == 0 {
		return "", err
	}
	if end := bytes.IndexByte(head, '\n'); end >= 0 {
		head = head[:end]
	}
	sum := sha256.Sum256(bytes.TrimRight(head, "\r"))
	return "f" + hex.EncodeToString(sum[:16]), nil
}

// newBar shows progress on a terminal; elsewhere it shows nothing.
func newBar(w io.Writer, name string, size int64) *progressbar.ProgressBar {
	return progressbar.NewOptions64(size, progressbar.OptionSetWriter(w),
		progressbar.OptionSetDescription(name), progressbar.OptionShowBytes(true),
		progressbar.OptionSetPredictTime(true), progressbar.OptionFullWidth(),
		progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish(),
		progressbar.OptionSetVisibility(isTerminal(w)))
}
