package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
)

// soakFirst is the first month with events, soakBegin when a history begins.
var (
	soakFirst = time.Date(2025, 11, 1, 0, 0, 0, 0, time.UTC)
	soakBegin = time.Date(2026, 1, 24, 9, 30, 0, 0, time.UTC)
)

// soakHistoric is the age from which a delivery may come as history. No window of the present reaches back so
// far: a counter is not raised to usage that holds history.
const soakHistoric = 35 * 24 * time.Hour

// holder is who has a credential from a time on.
type holder struct {
	from     time.Time
	customer string
}

// reference folds the set of what was sent: of each key the highest revision counts, a void above all, for whom
// the event names or who had its credential then. It is usage by meter, customer and day.
func reference(sent []sentRecord, holders map[string][]holder, metered time.Time) map[string]int {
	best, out := map[string]sentEvent{}, map[string]int{}
	for _, r := range sent {
		for _, e := range r.events {
			key := e.id + e.at.String()
			if was, ok := best[key]; !e.broken && (!ok || e.void || !was.void && e.revision >= was.revision) {
				best[key] = e
			}
		}
	}
	for _, e := range best {
		who, since := e.customer, time.Time{}
		for _, h := range holders[e.name] {
			if !h.from.After(e.at) && !h.from.Before(since) {
				who, since = h.customer, h.from
			}
		}
		if who != "" && !e.void {
			out["calls "+who+e.at.Format(" 2006-01-02")]++
			out["bytes_out "+who+e.at.Format(" 2006-01-02")] += e.bytes
			if e.bytes >= large && !metered.IsZero() && !e.at.Before(metered) {
				out["large "+who+e.at.Format(" 2006-01-02")]++
			}
		}
	}
	return out
}

// large are the bytes from which the meter large counts an event.
const large = 600

// worth is what a customer owes for usage: every month is rounded by itself.
func worth(usage map[string]int, customer string) (net schemas.Decimal, calls int) {
	months := map[string]int{}
	for what, n := range usage {
		if day, ok := strings.CutPrefix(what, "calls "+customer+" "); ok {
			months[day[:len("2006-01")]] += n
			calls += n
		}
	}
	for _, n := range months {
		net = net.Add(schemas.MustDecimal("0.013").Mul(whole64(n)).Round(2))
	}
	return net, calls
}

// soakNames are credentials that nobody has registered when a history begins.
var soakNames = []string{"app-0", "app-1", "app-2"}

// draw makes some records of deliveries: new ones and ones that were sent before or belong to those.
func (h *soakHistory) draw() (records []sentRecord) {
	for range 1 + h.rnd.IntN(3) {
		live := sentRecord{partition: h.rnd.IntN(crashPartitions)}
		for range 1 + h.rnd.IntN(8) {
			e := h.delivery()
			if !e.broken && e.at.Before(h.now().Add(-soakHistoric)) && h.rnd.IntN(2) == 0 {
				e.history = true
				records = append(records, sentRecord{h.rnd.IntN(crashPartitions), []sentEvent{e}})
				continue
			}
			live.events = append(live.events, e)
		}
		if len(live.events) > 0 {
			records = append(records, live)
		}
	}
	return records
}

// delivery is the next delivery.
func (h *soakHistory) delivery() sentEvent {
	chance := h.rnd.IntN(100)
	if len(h.made) == 0 || chance < 50 {
		e := h.fresh()
		h.made = append(h.made, e)
		switch h.rnd.IntN(20) {
		case 0: // its void or amendment comes first
			h.owed = append(h.owed, e)
			return h.corrected(e)
		case 1: // it comes with another content, which only a correction can settle
			other := e
			other.bytes += 7
			h.owed = append(h.owed, other, h.corrected(e))
		}
		return e
	}
	near := h.made[max(0, len(h.made)-5):]
	e := near[h.rnd.IntN(len(near))]
	if h.rnd.IntN(2) == 0 {
		e = h.made[h.rnd.IntN(len(h.made))]
	}
	switch {
	case chance < 70:
		return e
	case chance < 84:
		return h.corrected(e)
	case chance < 88:
		e.at = e.at.Add(-time.Duration(1+h.rnd.IntN(90)) * time.Second)
		return e
	case chance < 90:
		return sentEvent{id: "x" + strconv.Itoa(len(h.made)), broken: true}
	case len(h.owed) > 0:
		n := h.rnd.IntN(len(h.owed))
		e = h.owed[n]
		h.owed = slices.Delete(h.owed, n, n+1)
	}
	return e
}

// fresh is an event that was never sent, of now or late by minutes to months.
func (h *soakHistory) fresh() sentEvent {
	late := h.rnd.Int64N(int64(2 * time.Minute))
	switch h.rnd.IntN(10) {
	case 0, 1:
		late = h.rnd.Int64N(int64(48 * time.Hour))
	case 2, 3: // around few moments, so that they share buckets
		era := h.eras[h.rnd.IntN(len(h.eras))]
		late = int64(h.now().Sub(era)) - h.rnd.Int64N(int64(4*time.Minute)) + int64(2*time.Minute)
	}
	e := sentEvent{id: fmt.Sprintf("e%d", len(h.made)), bytes: 100 + h.rnd.IntN(900)}
	e.at = h.now().Add(-time.Duration(late)).Truncate(time.Millisecond)
	if h.rnd.IntN(3) == 0 {
		e.name = soakNames[h.rnd.IntN(len(soakNames))]
	} else {
		e.customer = crashCustomers[h.rnd.IntN(len(crashCustomers))]
	}
	return e
}

// corrected is a void or an amendment of e; an amendment of one number always says the same.
func (h *soakHistory) corrected(e sentEvent) sentEvent {
	if h.rnd.IntN(2) == 0 {
		e.void = true
		return e
	}
	base := e.bytes % 1000
	e.revision = 1 + h.rnd.IntN(3)
	e.bytes = base + 1000*e.revision
	return e
}

// meterMore applies a version of the catalog with one more meter and a limit for it. It counts from some minute of the
// past or the future on, which may be in a month that is closed.
func (h *soakHistory) meterMore() error {
	from := h.now().Add(time.Duration(h.rnd.IntN(23*24)-20*24) * time.Hour).Truncate(time.Minute)
	text := strings.NewReplacer("plans:", fmt.Sprintf("  - {meter: large, unit: call, where: {bytes_out: {gte: %d}}, "+
		"dimensions: [product]}\nplans:", large),
		"default_plan:", "      - {id: large, meter: large, per: month, units: 1_000_000}\ndefault_plan:").
		Replace(crashCatalog)
	_, _, err := h.agreed.Apply(h.ctx, map[string][]byte{"catalog.yaml": []byte(text)},
		catalog.ApplyOptions{MetersFrom: from, By: "a history"})
	if err != nil {
		return err
	}
	h.since = from
	return h.follower.Refresh(h.ctx)
}

// agreeAgain registers a credential, or gives one to another customer: all that it was shown for, or from a time
// on.
func (h *soakHistory) agreeAgain() error {
	name := soakNames[h.rnd.IntN(len(soakNames))]
	next := holder{customer: crashCustomers[h.rnd.IntN(len(crashCustomers))]}
	have := h.holders[name]
	id := name + "-0"
	if len(have) > 0 && h.rnd.IntN(2) == 0 {
		next.from = h.now().Add(-time.Duration(h.rnd.IntN(40*24)) * time.Hour).Truncate(time.Minute)
		id = fmt.Sprintf("%s-%d", name, len(have))
		if slices.ContainsFunc(have, func(o holder) bool { return o.from.Equal(next.from) }) {
			return nil
		}
		have = append(have, next)
	} else if len(have) > 0 {
		have[0] = next
	} else {
		have = []holder{next}
	}
	row := catalog.Credential{ID: id, Kind: schemas.CredentialName, Match: name, Customer: next.customer,
		From: next.from}
	if _, err := h.agreed.PutCredentials(h.ctx, []catalog.Credential{row}, "a history", "test"); err != nil {
		return err
	}
	h.holders[name] = have
	return h.follower.Refresh(h.ctx)
}
