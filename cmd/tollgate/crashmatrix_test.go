package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"tollgate/cmd/tollgate/embedded/embeddedtest"
	"tollgate/schemas/explore"
	"tollgate/schemas/seam"
	"tollgate/schemas/stream"
)

// The environment chooses what TestIntegrationCrashMatrix plays.
const (
	// envMatrix is "all" for every cell, or a part of the names of the wanted ones. Default: a tenth, by chance; with the
	// race detector a thirtieth, as a cell then takes three times as long.
	envMatrix = "CRASHMATRIX"
	// envMatrixSeed repeats a run of the tenth.
	envMatrixSeed = "CRASHMATRIX_SEED"
	// envMatrixTable is the file that the table is written to, as Markdown. Default: it is only printed.
	envMatrixTable = "CRASHMATRIX_TABLE"
)

// matrixSteps are the steps of each role, in the order of the path.
var matrixSteps = []struct {
	role  role
	steps []seam.Step
}{
	{roleCollector, []seam.Step{seam.Fetch, seam.Decode, seam.Count, seam.Publish, seam.Commit}},
	{roleAggregator, []seam.Step{seam.Fetch, seam.Decode, seam.InsertEvents, seam.InsertMarks, seam.InsertReceipts,
		seam.Commit, seam.Recompute, seam.InsertHead}},
	{roleBilling, []seam.Step{seam.Cut, seam.Claim, seam.InsertInvoices, seam.NoteDone}},
}

// crashMatrix lists every cell.
func crashMatrix() (all []fault) {
	for _, r := range matrixSteps {
		for _, step := range r.steps {
			for _, m := range []moment{before, during, after} {
				for _, k := range []kind{killed, unheard, refused} {
					for _, s := range []sequel{resumes, other, zombie} {
						all = append(all, fault{r.role, step, m, k, s})
					}
				}
			}
		}
	}
	return all
}

// cellsAtOnce: a cell mostly waits for the ticks of its roles.
const cellsAtOnce = 6

// TestIntegrationCrashMatrix plays cells of the crash matrix: each step of collector, aggregator and close × before, during, after ×
// kill -9, lost acknowledgement, error × the same owner resumes, another takes over, a zombie wakes up. Nothing may be
// lost or doubled in usage, counters and invoices.
func TestIntegrationCrashMatrix(t *testing.T) {
	cells := chosenCells(t)
	outcomes := playCells(t, cells, false)
	table := matrixAbout + matrixTable(cells, outcomes)
	t.Log("\n" + table)
	if path := os.Getenv(envMatrixTable); path != "" {
		if err := os.WriteFile(path, []byte(table), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// playCells plays cells, some at once.
func playCells(t *testing.T, cells []fault, process bool) []*outcome {
	p := openCrashParts(t)
	outcomes := make([]*outcome, len(cells))
	next := make(chan int)
	var workers sync.WaitGroup
	for range cellsAtOnce {
		workers.Go(func() {
			for n := range next {
				began := time.Now()
				outcomes[n] = playCell(t.Context(), p, cells[n], process)
				if o := outcomes[n]; !o.ok() {
					t.Errorf("%s: %s (repeat with %s=%q)", cells[n], o, envMatrix, cells[n])
				} else if testing.Verbose() {
					fmt.Printf("%-60s ok %6.2fs\n", cells[n], time.Since(began).Seconds())
				}
			}
		})
	}
	for n := range cells {
		next <- n
	}
	close(next)
	workers.Wait()
	return outcomes
}

// chosenCells are the cells that the environment names, else some; in an order by chance, so that a run that is cut
// short has seen something of everything.
func chosenCells(t *testing.T) []fault {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv(envMatrixSeed); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("%s: %v", envMatrixSeed, err)
		}
	}
	wanted, all := os.Getenv(envMatrix), crashMatrix()
	rand.New(rand.NewPCG(seed, 0)).Shuffle(len(all), func(a, b int) { all[a], all[b] = all[b], all[a] })
	switch wanted {
	case "all":
		return all
	case "":
		share := 10
		if explore.Raced {
			share = 30
		}
		t.Logf("one cell in %d of the crash matrix; again with %s=%d", share, envMatrixSeed, seed)
		return all[:(len(all)+share-1)/share]
	}
	some := slices.DeleteFunc(all, func(f fault) bool { return !strings.Contains(f.String(), wanted) })
	if len(some) == 0 {
		t.Fatalf("%s=%q names no cell; one is %q", envMatrix, wanted, crashMatrix()[0])
	}
	return some
}

// openCrashParts starts or connects the servers.
func openCrashParts(t *testing.T) crashParts {
	t.Helper()
	p := crashParts{}
	p.clickhouse, _ = embeddedtest.Engine(t)
	p.kafka, _ = embeddedtest.Broker(t)
	p.redis, _ = embeddedtest.Cache(t)
	var err error
	if p.client, err = stream.Open(t.Context(), stream.Options{Brokers: []string{p.kafka}, Log: quietly}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.client.Close() })
	if p.producer, err = p.client.NewProducer(stream.ProducerOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.producer.Close() })
	return p
}

// matrixAbout begins the document that the table is kept in.
const matrixAbout = `# Crash matrix

Written by ` + "`make crashmatrix`" + `. Each cell plays the whole path, from the topic of access events to the invoices, on a
real ClickHouse engine, Redis and a Kafka broker, with a database, topics and keys of its own: 68 live deliveries in two waves,
over two shards, two source partitions and two months, some repeated, one voided after and one before it came, one broken,
of two customers with limits and a price. One owner of one role is hit by one fault at one step:

- **when** — *before*: nothing of the step is done; *during*: where it is several writes, some of them, else a half of its
  request; *after*: all of it.
- **fault** — *kill -9*: memory and connections are gone; *no ack*: the answer never comes; *error*: the server fails.
- **who goes on** — the *same owner* (by itself, or started again after a kill); *another owner*, which cuts batches and
  flushes otherwise; a *zombie*: the old owner stands still at the fault, another one works to the end, then the old one
  wakes up, finishes its write, and goes on as far as it comes; its commits are taken by the broker, which does not fence
  it, and a third owner begins at what it committed.

Then usage by customer and month, the counters of every window, numbers, lines and amounts of the invoices are compared
with a fold over the set of sent events, and ` + "`tollgate audit`" + ` must balance. *exact* means: nothing lost, nothing doubled.
Counts that a stopped process had not brought to Redis are in its memory only; there (count quota × another owner, unless it
was killed: then its events are read again) the counters are compared after reconciliation, in the windows of the present.

`

// matrixTable shows the cells as they came out; its last line sums it up.
func matrixTable(cells []fault, outcomes []*outcome) string {
	shown := map[fault]string{}
	lostAll, doubledAll, failed := 0, 0, 0
	for n, f := range cells {
		o := outcomes[n]
		lostAll, doubledAll = lostAll+o.lost, doubledAll+o.doubled
		shown[f] = "exact"
		if !o.ok() {
			failed++
			shown[f] = fmt.Sprintf("**%d lost, %d doubled: %s**", o.lost, o.doubled, o)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "| role | step | when | fault | %s | %s | %s |\n|---|---|---|---|---|---|---|\n", resumes, other, zombie)
	all := crashMatrix()
	for row := range slices.Chunk(all, 3) { // the sequels of one fault
		line := ""
		for _, f := range row {
			line += " " + shown[f] + " |"
		}
		if f := row[0]; strings.Trim(line, " |") != "" {
			fmt.Fprintf(&b, "| %s | %s | %s | %s |%s\n", roleNames[f.role], f.step, f.moment, f.kind, line)
		}
	}
	fmt.Fprintf(&b, "\n%d cells: %d lost, %d doubled, %d not exact\n", len(cells), lostAll, doubledAll, failed)
	return b.String()
}
