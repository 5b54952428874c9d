package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"tollgate/aggregator"
	"tollgate/collector"
	"tollgate/schemas"
	"tollgate/schemas/wire"
)

// knowledge is what decides whether an event is rejected: it is stored with a replay, and an event whose
// replay was rejected waits until it has changed.
type knowledge struct {
	catalog uint64 // sequence number of the catalog version
	change  uint64 // of customers and credentials
	sources string // bindings of topics to sources, as this process is set
	program string // version
}

// with is the knowledge as text, together with how one event is read this time.
func (k knowledge) with(p *aggregator.Replay) string {
	text := fmt.Sprintf("catalog %d change %d sources %s program %s", k.catalog, k.change,
		digest(k.sources), k.program)
	for _, as := range []struct{ what, word string }{{"source", p.AsSource}, {"format", p.AsFormat},
		{"customer", p.AsCustomer}} {
		if as.word != "" {
			text += fmt.Sprintf(" %s %s", as.what, as.word)
		}
	}
	if p.Amend {
		text += " amend"
	}
	if p.Payload != nil {
		text += " mended " + digest(string(p.Payload))
	}
	return text
}

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:8])
}

// judged says what becomes of a rejected event when somebody asks for its replay.
type judged string

const (
	judgedReplay    judged = "replayed"
	judgedOver      judged = "replayed before"
	judgedUnchanged judged = "nothing changed since its last replay was rejected"
	judgedCut       judged = "its payload was too long to keep"
)

// judgeReplay decides whether an event is replayed as p says. again replays it although nothing is known to
// have changed: bindings of collectors on other machines are not seen here.
func judgeReplay(r *aggregator.Rejected, p *aggregator.Replay, again bool) judged {
	switch {
	case r.State == aggregator.RejectedReplayed || r.State == aggregator.RejectedReplaying:
		return judgedOver
	case p.Payload == nil && !collector.Whole(r.Event):
		return judgedCut
	case r.State == aggregator.RejectedAgain && r.Knowledge == p.Knowledge && !again:
		return judgedUnchanged
	}
	return judgedReplay
}

// replayClaim is the plan of a claim of series replays, as JSON: anybody can carry it out in the claimer's
// place.
type replayClaim struct {
	Plan   string             `json:"plan"`   // rows of table replays
	Events int                `json:"events"` // how many rows
	From   map[string][]int64 `json:"from"`   // topic → where its partitions ended before
}

// placeOf is where a rejected event was first read.
func placeOf(e *wire.RejectedEvent) schemas.Coordinates {
	return schemas.Coordinates{Topic: e.Topic, Generation: e.Generation, Partition: e.Partition,
		Offset: e.Offset, Index: e.Index}
}
