package billing

import (
	"cmp"
	"slices"
	"time"

	"tollgate/schemas"
)

// runOf lists the claimed parts of a period's run, and whether the period is closed by its last part.
func runOf(plans []planned, period schemas.Period) (parts []planned, closed bool) {
	for _, p := range plans {
		if p.plan.Kind == KindInvoices && samePeriod(p.plan.period(), period) {
			parts, closed = append(parts, p), closed || p.plan.Last
		}
	}
	return parts, closed
}

func lastOffset(plans []planned) int64 {
	if len(plans) == 0 {
		return -1
	}
	return plans[len(plans)-1].offset
}

// earlierRuns lists the closed periods that precede period for the customers who are billed in it, oldest
// first, as far back as those that ended at most reach before it; and those that are nobody's any more,
// because whoever had them moved to another time zone. A period may be compared in any run: all runs are one
// after the other in the chain.
func earlierRuns(a *Agreement, plans []planned, period schemas.Period,
	reach time.Duration) ([]Adjusted, error) {
	found := map[schemas.Period]Adjusted{}
	groups := GroupsOf(a)
	for _, p := range plans {
		ended := p.plan.period()
		if p.plan.Kind != KindInvoices || !p.plan.Last || !ended.To.Before(period.To) ||
			period.From.Sub(ended.To) > reach {
			continue
		}
		of, err := anybodys(groups, ended)
		if err != nil {
			return nil, err
		}
		if !of {
			parts, _ := runOf(plans, ended)
			found[ended] = Adjusted{From: ended.From, To: ended.To, Version: parts[0].plan.Version}
		}
	}
	for _, g := range groups {
		p, err := PeriodOf(period.From, g.Every, g.Zone)
		if err != nil {
			return nil, err
		}
		if !samePeriod(p, period) {
			continue
		}
		for {
			if p, err = Before(p, g.Every, g.Zone); err != nil {
				return nil, err
			}
			if period.From.Sub(p.To) > reach {
				break
			}
			if parts, closed := runOf(plans, p); closed {
				q := utc(p)
				found[q] = Adjusted{From: q.From, To: q.To, Version: parts[0].plan.Version}
			}
		}
	}
	out := make([]Adjusted, 0, len(found))
	for _, e := range found {
		out = append(out, e)
	}
	slices.SortFunc(out,
		func(x, y Adjusted) int { return cmp.Or(x.From.Compare(y.From), x.To.Compare(y.To)) })
	return out, nil
}

// anybodys tells whether p is a billing period of one of the groups.
func anybodys(groups []Group, p schemas.Period) (bool, error) {
	for _, g := range groups {
		q, err := PeriodOf(p.From, g.Every, g.Zone)
		if err != nil {
			return false, err
		}
		if samePeriod(p, q) {
			return true, nil
		}
	}
	return false, nil
}

// settled tells that nothing of an earlier period can differ from what was billed: its cuts and the
// customers' change number are those it was last billed or compared with, nothing waited then, and no credit
// note since asks to bill anew. What is not settled is compared, which may find no difference.
func settled(plans []planned, period schemas.Period, cuts []PeriodCut, change uint64) bool {
	for _, p := range slices.Backward(plans) {
		if p.plan.Kind == KindCreditNote {
			if p.plan.Credit.Rebill {
				return false
			}
			continue
		}
		own, open := samePeriod(p.plan.period(), period), false
		adjusted := slices.ContainsFunc(p.plan.Adjust, func(e Adjusted) bool {
			if samePeriod(e.period(), period) {
				open = e.Open
				return true
			}
			return false
		})
		if !own && !adjusted {
			continue
		}
		then := p.plan.cuts()
		for _, c := range cuts {
			if then[schemas.Period{From: c.From.UTC(), To: c.To.UTC()}] != c.Cut {
				return false
			}
		}
		return !open && p.plan.Version.Change == change
	}
	return false
}
