package billing

import (
	"encoding/json"
	"fmt"
	"testing"

	"tollgate/schemas"
	"tollgate/schemas/explore"
	"tollgate/schemas/stream"
)

// This model is closers of two periods on one log of claims: each may end and begin again at any step, sleep while
// others go on, and lose the answer to what it wrote. Claims are judged by stream.Chain, plans are read and made by the
// functions of this package. TestExploreClaims walks every order of their steps.

const (
	mostClosers = 3
	mostClaims  = 5
	perRun      = 2 // invoices of a period
	mostNumbers = 2*perRun + 2
)

// loggedClaim is a record of the log; its plan follows from these.
type loggedClaim struct {
	period   int8 // 0 and 1
	previous int8
	first    int8 // number
	by       int8 // whose cut the documents follow from
}

type closerState struct {
	stage   int8 // of closer*
	claim   loggedClaim
	at      int8 // offset of the claim whose documents it writes
	written int8 // of them
}

const (
	closerIdle    int8 = iota
	closerPlanned      // it has read the log and made a plan
	closerClaimed      // its claim is in the log; it has not read it back
	closerWrites       // the documents of the claim at
	closerWrote        // all; it has not said so
)

type claimsState struct {
	claims  [mostClaims]loggedClaim
	count   int8
	done    [mostClaims]bool
	numbers [mostNumbers + 1]int8 // documents: 1 + offset of the claim × perRun + which
	twice   int8                  // a number that two documents have
	closer  [mostClosers]closerState
}

type claimsModel struct {
	closers int
	broken  string
	plans   map[loggedClaim][]byte
}

var modelPeriods = []schemas.Period{january, february}

func modelDrafts() []schemas.Invoice {
	return []schemas.Invoice{{Customer: schemas.Party{ID: "ann"}, Currency: "EUR"}, {Customer: schemas.Party{ID: "bob"}, Currency: "EUR"}}
}

func (m *claimsModel) base(c loggedClaim) *Plan {
	p := modelPeriods[c.period]
	return &Plan{Rules: Rules, Kind: KindInvoices, Issuer: "acme", Date: "2026-03-01", Year: 2026, From: p.From,
		To: p.To, Cuts: []PeriodCut{{p.From, p.To, schemas.CutID(fmt.Sprint("of closer ", c.by))}}}
}

// text is the plan of a claim as the log has it.
func (m *claimsModel) text(c loggedClaim) []byte {
	if m.plans[c] == nil {
		p := m.base(c)
		p.First, p.Count, p.Last = int64(c.first), perRun, true
		for _, d := range modelDrafts() {
			p.Keys = append(p.Keys, d.Key())
		}
		m.plans[c] = p.encode()
	}
	return m.plans[c]
}

// valid are the claims that count, by the chain.
func (m *claimsModel) valid(s *claimsState) (list []Claim) {
	var chain stream.Chain
	for i := range s.count {
		c := s.claims[i]
		r := stream.ClaimRecord{Claim: stream.Claim{Series: Chain, Previous: int64(c.previous),
			Plan: json.RawMessage(m.text(c))}, Offset: int64(i)}
		if chain.Add(r) || m.broken == "all-valid" {
			list = append(list, Claim{Offset: r.Offset, Plan: r.Plan})
		}
	}
	return list
}

func (m *claimsModel) next(s claimsState, yield func(explore.Step, claimsState)) {
	valid := m.valid(&s)
	plans, err := readPlans(valid)
	if err != nil && m.broken == "" {
		return // wrong says so
	}
	for p := range m.closers {
		say := func(what string, n int, t claimsState) {
			yield(explore.Step{Who: fmt.Sprint("closer ", p), What: what, N: n}, t)
		}
		c := s.closer[p]
		t := s
		a := &t.closer[p]
		if c.stage != closerIdle {
			*a = closerState{}
			say("is killed and begins again", 0, t)
			t = s
		}
		switch c.stage {
		case closerIdle:
			m.begin(s, p, plans, say)
		case closerPlanned:
			if s.count < mostClaims {
				t.claims[s.count] = c.claim
				t.count++
				a.stage, a.at = closerClaimed, s.count
				if m.broken == "act-before-reading" {
					a.stage = closerWrites
				}
				say("claims at", int(s.count), t)
			}
		case closerClaimed: // stream.Claims.ClaimAfter: it won if the chain says that its record is valid
			*a = closerState{}
			for _, v := range valid {
				if v.Offset == int64(c.at) {
					*a = closerState{stage: closerWrites, at: c.at}
				}
			}
			say("reads its claim back", int(a.stage), t)
		case closerWrites:
			m.write(&t, p)
			say("writes a document of claim", int(c.at), t)
		case closerWrote:
			t.done[c.at] = true
			*a = closerState{}
			say("says that it is done", int(c.at), t)
		}
	}
}

// begin is Billing.issue up to the plan: what another began is finished first, oldest first; then a period is planned
// that is not closed.
func (m *claimsModel) begin(s claimsState, p int, plans []planned, say func(string, int, claimsState)) {
	for _, one := range plans {
		if !s.done[one.offset] && m.broken != "number-of-documents" {
			t := s
			t.closer[p] = closerState{stage: closerWrites, at: int8(one.offset)}
			say("finishes claim", int(one.offset), t)
			return
		}
	}
	for period := range modelPeriods {
		parts, closed := runOf(plans, modelPeriods[period])
		if closed {
			continue
		}
		claim := loggedClaim{period: int8(period), previous: int8(lastOffset(plans)), by: int8(p)}
		part, err := nextPart(m.base(claim), plans, parts, modelDrafts())
		if err != nil {
			panic("BUG: " + err.Error())
		}
		claim.first = int8(part.plan.First)
		if m.broken == "number-of-documents" { // one more than the last that is written, whoever is still at it
			claim.first = 1
			for n, document := range s.numbers {
				if document != 0 {
					claim.first = int8(n + 1)
				}
			}
		}
		t := s
		t.closer[p] = closerState{stage: closerPlanned, claim: claim}
		say("plans numbers of a period from", int(claim.first), t)
	}
}

// write is one document; writing it again writes the same row.
func (m *claimsModel) write(s *claimsState, p int) {
	c := &s.closer[p]
	n := s.claims[c.at].first + c.written
	document := 1 + c.at*perRun + c.written
	if was := s.numbers[n]; was != 0 && was != document {
		s.twice = n
	}
	s.numbers[n] = document
	if c.written++; c.written == perRun {
		c.stage, c.written = closerWrote, 0
	}
}

func (m *claimsModel) wrong(s claimsState) string {
	if s.twice != 0 {
		return fmt.Sprintf("number %d was given twice", s.twice)
	}
	billed := map[[2]int8]int{}
	for n, document := range s.numbers {
		if document == 0 {
			continue
		}
		of := [2]int8{s.claims[(document-1)/perRun].period, (document - 1) % perRun}
		if was, ok := billed[of]; ok {
			return fmt.Sprintf("an invoice of period %d has numbers %d and %d", of[0], was, n)
		}
		billed[of] = n
	}
	if _, err := readPlans(m.valid(&s)); err != nil {
		return err.Error()
	}
	return ""
}

func (m claimsModel) model() explore.Model[claimsState] {
	m.plans = map[loggedClaim][]byte{}
	return explore.Model[claimsState]{First: []claimsState{{}}, Next: m.next, Wrong: m.wrong}
}

// TestExploreClaims: no order of closers gives a number twice or bills a period twice.
func TestExploreClaims(t *testing.T) {
	t.Run("two closers", func(t *testing.T) { explore.Sound(t, claimsModel{closers: 2}.model()) })
	t.Run("three closers, deep", func(t *testing.T) {
		if !explore.Deep() {
			t.Skip("run by `make explore`")
		}
		explore.Sound(t, claimsModel{closers: 3}.model())
	})
}

// TestExploreClaimsFinds: closers that do without the chain are found out.
func TestExploreClaimsFinds(t *testing.T) {
	f := func(broken, wrong string) {
		t.Run(broken, func(t *testing.T) {
			explore.Finds(t, claimsModel{closers: 2, broken: broken}.model(), wrong)
		})
	}
	f("all-valid", "numbers")
	f("act-before-reading", "twice")
	f("number-of-documents", "numbers")
}
