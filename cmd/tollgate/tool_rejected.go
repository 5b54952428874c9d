package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"tollgate/aggregator"
	"tollgate/collector"
)

// rejectedCommands list and replay what could not be used.
type rejectedCommands struct {
	List   rejectedList   `cmd:"" help:"List rejected events with reason, place and how to fix it, each once."`
	Replay rejectedReplay `cmd:"" help:"Send rejected events again under their original identity, once."`
}

// rejectedChoice chooses rejected events.
type rejectedChoice struct {
	Source string `help:"Only of this source." placeholder:"SOURCE"`
	Reason string `help:"Only with this reason." placeholder:"REASON"`
	Limit  atMost `default:"1000" help:"At most so many, the newest first."`
}

func (c rejectedChoice) filter(states ...aggregator.RejectedState) aggregator.RejectedFilter {
	return aggregator.RejectedFilter{Source: c.Source, Reason: c.Reason, Limit: int(c.Limit), States: states}
}

// notReplayed and wereReplayed are the halves of all rejected events.
var (
	notReplayed  = []aggregator.RejectedState{aggregator.RejectedOpen, aggregator.RejectedAgain}
	wereReplayed = []aggregator.RejectedState{aggregator.RejectedReplaying, aggregator.RejectedReplayed}
)

// rejectedList lists or counts rejected events.
type rejectedList struct {
	rejectedChoice
	Open     bool   `xor:"state" help:"Only those that were not replayed, or whose replay was rejected again."`
	Replayed bool   `xor:"state" help:"Only those that were replayed."`
	By       string `enum:",reason" default:"" help:"Count them by reason, all of them." placeholder:"reason"`
	form
}

// Run lists the newest first, or counts by reason.
func (c rejectedList) Run(a *app) error {
	var states []aggregator.RejectedState
	switch {
	case c.Open:
		states = notReplayed
	case c.Replayed:
		states = wereReplayed
	}
	return a.with(needClickHouse, func(p *parts) error {
		reader := aggregator.NewReader(p.store)
		if c.By != "" {
			counts, err := reader.CountRejected(a.ctx, c.filter(states...))
			if err != nil {
				return err
			}
			return a.show(countsByReason(counts), c.Output)
		}
		rows, err := reader.Rejected(a.ctx, c.filter(states...))
		if err != nil {
			return err
		}
		t := rejectedTable(rows)
		t.most = c.Limit
		return a.show(t, c.Output)
	})
}

const noneRejected = "no event is rejected that fits"

func rejectedTable(rows []aggregator.Rejected) *table {
	t := &table{columns: []string{"coordinates", "source", "line", "state", "replays", "reason", "detail",
		"hint", "payload"}, none: noneRejected}
	for _, one := range rows {
		line, e := "", one.Event
		if e.Line > 0 {
			line = fmt.Sprint(e.Line)
		}
		replays := e.Attempt
		if slices.Contains(wereReplayed, one.State) {
			replays++
		}
		t.add(placeOf(e).String(), e.Source, line, string(one.State), fmt.Sprint(replays), e.Reason,
			e.Detail, e.Hint, textOf(e.Payload))
	}
	return t
}

// textOf is a payload as lists write it: one character for each byte that is not UTF-8, which JSON and CSV
// cannot hold.
func textOf(payload []byte) string { return string([]rune(string(payload))) }

// reasonCount is one line of `rejected list --by reason`.
type reasonCount struct {
	Reason    string `json:"reason"`
	Events    uint64 `json:"events"`
	Open      uint64 `json:"open"`
	Again     uint64 `json:"rejected_again"`
	Replaying uint64 `json:"replaying"`
	Replayed  uint64 `json:"replayed"`
}

func countsByReason(counts []aggregator.RejectedReason) *table {
	byReason := map[string]*reasonCount{}
	for _, c := range counts {
		one := byReason[c.Reason]
		if one == nil {
			one = &reasonCount{Reason: c.Reason}
			byReason[c.Reason] = one
		}
		one.Events += c.Events
		switch c.State {
		case aggregator.RejectedOpen:
			one.Open += c.Events
		case aggregator.RejectedAgain:
			one.Again += c.Events
		case aggregator.RejectedReplaying:
			one.Replaying += c.Events
		case aggregator.RejectedReplayed:
			one.Replayed += c.Events
		}
	}
	t := &table{columns: []string{"reason", "events", "open", "rejected_again", "replaying", "replayed"},
		none: noneRejected}
	items := []reasonCount{}
	for _, reason := range slices.Sorted(maps.Keys(byReason)) {
		one := *byReason[reason]
		items = append(items, one)
		t.add(one.Reason, fmt.Sprint(one.Events), fmt.Sprint(one.Open), fmt.Sprint(one.Again),
			fmt.Sprint(one.Replaying), fmt.Sprint(one.Replayed))
	}
	t.items = items
	return t
}

// rejectedReplay replays what is chosen.
type rejectedReplay struct {
	rejectedChoice
	As       string `help:"Source to replay them under, where the wrong one was the cause." placeholder:"SOURCE"`
	Read     string `name:"format" help:"Format to read them as, where the wrong one was the cause." placeholder:"FORMAT"`
	Customer string `enum:",credential,ip,event" default:"" help:"Where customers come from: credential, ip or event."`
	Fixed    string `help:"Only the records of a file, mended: rejected list -o json with other payloads." placeholder:"FILE"`
	Why      string `help:"Why the records were mended, for the audit log." placeholder:"WHY"`
	Again    bool   `help:"Also those whose replay was rejected, though nothing is known to have changed."`
	Amend    bool   `help:"Grant them the right to amend and void."`
	By       string `help:"Who corrects, for the audit log; default: the user of this machine." placeholder:"NAME"`
	form
}

// replayedCounts is what a run of `rejected replay` did.
type replayedCounts struct {
	Replayed  int            `json:"replayed"`           // by this run's own plan
	Again     int            `json:"rejected_again"`     // of these
	Ended     int            `json:"published_for_dead"` // of plans that others left unfinished
	NotChosen map[string]int `json:"not_replayed"`       // why → events
}

// Run replays every chosen event once; one that is still wrong is rejected again under the same coordinates.
func (c rejectedReplay) Run(a *app) error {
	fixed, err := c.mended()
	if err != nil {
		return err
	}
	return a.withRoles(rolesOfTool, func(r *roles) error {
		result := replayedCounts{NotChosen: map[string]int{}}
		replayer := newReplayer(r)
		var list []aggregator.Replay
		err := replayer.alone(a.ctx, func(ctx context.Context) error {
			done, ended, err := replayer.replay(ctx, func(ctx context.Context) ([]aggregator.Replay, error) {
				return c.choose(ctx, a, r, fixed, result.NotChosen)
			})
			list, result.Ended = done, result.Ended+ended
			return err
		})
		if err != nil {
			return err
		}
		if err := r.settle(a.ctx, a.err); err != nil {
			return err
		}
		result.Replayed = len(list)
		if result.Again, err = rejectedAgain(a.ctx, r.reader, list); err != nil {
			return err
		}
		return result.print(a, c.Output)
	})
}

// mended reads the file of mended records: coordinates → payload; nil where there is none.
func (c rejectedReplay) mended() (map[string]string, error) {
	if c.Fixed == "" {
		return nil, nil
	}
	if strings.TrimSpace(c.Why) == "" {
		return nil, errors.New("--fixed changes what is billed: say why with --why")
	}
	text, err := os.ReadFile(c.Fixed)
	if err != nil {
		return nil, fmt.Errorf("--fixed: %w", err)
	}
	var rows []struct{ Coordinates, Payload string }
	if err := json.Unmarshal(text, &rows); err != nil {
		return nil, fmt.Errorf("--fixed %s: %w; want what `tollgate rejected list -o json` prints",
			c.Fixed, err)
	}
	out := map[string]string{}
	for i, row := range rows {
		if _, err := collector.ParseCoordinates(row.Coordinates); err != nil || row.Payload == "" {
			return nil, fmt.Errorf("--fixed %s: record %d needs coordinates and payload", c.Fixed, i+1)
		}
		out[row.Coordinates] = row.Payload
	}
	return out, nil
}

// choose lists what is to be replayed, and counts why others are not.
func (c rejectedReplay) choose(ctx context.Context, a *app, r *roles, fixed map[string]string,
	not map[string]int) (list []aggregator.Replay, err error) {
	clear(not)
	known, err := knownBy(a.config.Collector, r)
	if err != nil {
		return nil, err
	}
	filter := c.filter(notReplayed...)
	if fixed != nil {
		filter = aggregator.RejectedFilter{Limit: 1 << 30}
	}
	rows, err := r.reader.Rejected(ctx, filter)
	if err != nil {
		return nil, err
	}
	for i := range rows {
		p, chosen := c.replayOf(&rows[i], fixed, r)
		if !chosen {
			continue
		}
		p.Knowledge = known.with(&p)
		if v := judgeReplay(&rows[i], &p, c.Again); v != judgedReplay {
			not[string(v)]++
			continue
		}
		if list = append(list, p); len(list) == maxReplays {
			break
		}
	}
	return list, nil
}

// replayOf is the replay of a rejected event as the command line asks for it; false where its file does not
// name it.
func (c rejectedReplay) replayOf(one *aggregator.Rejected, fixed map[string]string, r *roles) (
	p aggregator.Replay, chosen bool) {
	p = aggregator.Replay{Event: one.Event, Source: one.Source, Key: one.Key, Attempt: one.Event.Attempt + 1,
		AsSource: c.As, AsFormat: c.Read, AsCustomer: c.Customer, Amend: c.Amend, Actor: who(c.By)}
	if fixed == nil {
		return p, true
	}
	payload, named := fixed[placeOf(one.Event).String()]
	if payload != textOf(one.Event.Payload) { // what was only listed and given back is not mended
		p.Payload, p.Reason = collector.RedactPayload(r.hasher, []byte(payload)), c.Why
	}
	return p, named
}

// knownBy is what decides about events now, as far as this process sees it.
func knownBy(settings CollectorConfig, r *roles) (knowledge, error) {
	sources, err := json.Marshal(settings.Sources)
	if err != nil {
		return knowledge{}, err
	}
	now := r.follower.Current()
	return knowledge{catalog: now.Version().Seq, change: now.Change(),
		sources: string(sources), program: version}, nil
}

// rejectedAgain counts how many of the replays were rejected.
func rejectedAgain(ctx context.Context, reader *aggregator.Reader,
	list []aggregator.Replay) (n int, err error) {
	if len(list) == 0 {
		return 0, nil
	}
	rows, err := reader.Rejected(ctx, aggregator.RejectedFilter{States: []aggregator.RejectedState{
		aggregator.RejectedAgain}, Limit: 1 << 30})
	attempts := map[string]uint32{}
	for _, one := range rows {
		attempts[placeOf(one.Event).String()] = one.Event.Attempt
	}
	for _, p := range list {
		if attempts[placeOf(p.Event).String()] == p.Attempt {
			n++
		}
	}
	return n, err
}

func (c replayedCounts) print(a *app, form string) error {
	t := &table{columns: []string{"what", "number"}, items: c}
	t.add("replayed under their original identity", fmt.Sprint(c.Replayed))
	t.add("rejected again", fmt.Sprint(c.Again))
	if c.Ended > 0 {
		t.add("published for a replay that had ended too early", fmt.Sprint(c.Ended))
	}
	for _, why := range slices.Sorted(maps.Keys(c.NotChosen)) {
		t.add("not replayed: "+why, fmt.Sprint(c.NotChosen[why]))
	}
	return a.show(t, form)
}
