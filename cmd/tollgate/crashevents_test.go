package main

import (
	"fmt"
	"maps"
	"strings"
	"time"

	"tollgate/schemas"
)

// crashDay is when the events of the matrix come in: half an hour into a month, so that they fall into two.
var crashDay = time.Date(2026, 2, 1, 0, 30, 0, 0, time.UTC)

// crashCatalog has two meters, two limits and a price.
const crashCatalog = `
issuer: {id: INV, name: Tollgate, currency: EUR, zone: UTC}
products:
  - product: default
    name: Everything
    routes: [/**]
meters:
  - {meter: calls, unit: call, dimensions: [product, status_class]}
  - {meter: bytes_out, unit: byte, sum: bytes_out, dimensions: [product]}
plans:
  - plan: default
    name: Default
    prices:
      - {meter: calls, label: Calls, amount: 0.013}
    limits:
      - {id: month, meter: calls, per: month, units: 1_000_000}
      - {id: day, meter: bytes_out, per: day, units: 100_000_000}
default_plan: default
`

// crashCustomers are who the events are of.
var crashCustomers = []string{"acme", "beta"}

// sentEvent is a delivery as its sender knows it; a record holds some of them.
type sentEvent struct {
	id       string
	at       time.Time
	customer string
	name     string // of the credential that was shown, instead of a customer
	bytes    int
	revision int
	void     bool
	broken   bool
	history  bool
}

func (e sentEvent) json() string {
	if e.broken {
		return fmt.Sprintf(`{"id":%q,"time":"yesterday"}`, e.id)
	}
	who := fmt.Sprintf(`"customer":%q`, e.customer)
	if e.name != "" {
		who = fmt.Sprintf(`"credential":{"name":%q}`, e.name)
	}
	head := fmt.Sprintf(`{"id":%q,"time":%q,%s`, e.id, e.at.Format(time.RFC3339Nano), who)
	if e.void {
		return head + `,"void":true,"reason":"sent in error"}`
	}
	if e.revision > 0 {
		head += fmt.Sprintf(`,"revision":%d,"reason":"measured again"`, e.revision)
	}
	return head + fmt.Sprintf(`,"method":"GET","path":"/v1/%s","status":200,"bytes_out":%d}`, e.id, e.bytes)
}

// sentRecord is a record of access-events.
type sentRecord struct {
	partition int
	events    []sentEvent
}

func (r sentRecord) value() []byte {
	var lines []string
	for _, e := range r.events {
		lines = append(lines, e.json())
	}
	return []byte(strings.Join(lines, "\n"))
}

// crashWave is one of the two waves that every cell sends: over both partitions and months, two customers, some events
// twice within a record, in two records and on two partitions, one that is voided after and one before its event,
// and one that is broken.
func crashWave(n int) (records []sentRecord) {
	at := []time.Time{crashDay.Add(-24 * time.Hour), crashDay.Add(-30*time.Minute - time.Millisecond),
		crashDay.Add(-30 * time.Minute), crashDay.Add(-7 * time.Minute)}
	event := func(k int) sentEvent {
		return sentEvent{id: fmt.Sprintf("w%d-%d", n, k), at: at[k%len(at)].Add(time.Duration(k*n) * time.Second),
			customer: crashCustomers[k%3%2], bytes: 100*n + k}
	}
	void := func(k int) sentEvent { e := event(k); e.void = true; return e }
	for r := range 6 {
		records = append(records, sentRecord{r % 2, []sentEvent{event(4 * r), event(4*r + 1), event(4*r + 2), event(4*r + 3)}})
	}
	return append(records,
		sentRecord{0, []sentEvent{event(0), event(0), event(24), void(31)}},
		sentRecord{1, []sentEvent{event(0), event(5), void(6), {id: fmt.Sprintf("w%d-x", n), broken: true}}},
		sentRecord{0, []sentEvent{event(31), event(25)}})
}

// crashYears is an event of each month of some years: so many that their marks do not fit into one insert.
func crashYears() (records []sentRecord) {
	for month := range 56 {
		e := sentEvent{id: fmt.Sprintf("year-%d", month), at: crashDay.AddDate(0, -2-month, 0), customer: "acme",
			bytes: month, history: true}
		records = append(records, sentRecord{month % 2, []sentEvent{e}})
	}
	return records
}

// truth is what must come out.
type truth struct {
	usage    map[string]int // meter, customer and month → quantity
	counters map[string]int // limit, customer and window → units of all deliveries
	keys     int
	rejected int
}

// foldOf is the reference: a set of keys, of which the voided ones count nothing. Counters count every live delivery
// that is no void; they are corrected by reconciliation.
func foldOf(records []sentRecord) truth {
	out := truth{usage: map[string]int{}, counters: map[string]int{}}
	kept := map[string]sentEvent{}
	for _, r := range records {
		for _, e := range r.events {
			key := e.id + e.at.String()
			if e.broken {
				out.rejected++
				continue
			}
			if was, ok := kept[key]; !ok || !was.void {
				kept[key] = e
			}
			if !e.void && !e.history {
				out.counters["month "+e.customer+e.at.Format(" 2006-01")]++
				out.counters["day "+e.customer+e.at.Format(" 2006-01-02")] += e.bytes
			}
		}
	}
	out.keys = len(kept)
	for e := range maps.Values(kept) {
		if !e.void {
			out.usage["calls "+e.customer+e.at.Format(" 2006-01")]++
			out.usage["bytes_out "+e.customer+e.at.Format(" 2006-01")] += e.bytes
		}
	}
	return out
}

// amountOf is what a customer is billed for January.
func (t truth) amountOf(customer string) schemas.Decimal {
	calls := t.usage["calls "+customer+" 2026-01"]
	return schemas.MustDecimal("0.013").Mul(schemas.NewDecimal(int64(calls), 0)).Round(2)
}
