package main

import (
	"context"
	"fmt"
	"slices"

	"tollgate/billing"
	"tollgate/schemas/stream"
)

const checkNumbers = "invoice numbers"

// numbersListed bounds the claims and documents that doctor names. Default 10: whoever has lost a table needs
// no list of it.
const numbersListed = 10

// examineNumbers compares the topic of claims with the tables of documents. Where one of them is not there
// yet, or gone, what looked at the servers says so.
func examineNumbers(ctx context.Context, _ *app, p *parts) ([]finding, error) {
	topics, err := p.kafka.DescribeTopics(ctx, stream.TopicClaims)
	if err != nil {
		return nil, err
	}
	tables, err := doctorStore{p.store.Conn()}.tables(ctx)
	if err != nil {
		return nil, err
	}
	for _, needed := range []string{"invoices", "credit_notes", "invoice_runs"} {
		if _, ok := tables[needed]; !ok {
			return nil, nil
		}
	}
	if !topics[0].Exists {
		return nil, nil
	}
	claims, err := openClaims(ctx, p)
	if err != nil {
		return nil, err
	}
	compared, err := billing.CompareNumbers(ctx, billing.NewStore(p.store.Conn()), documentSeries{claims})
	if err != nil {
		return nil, err
	}
	return judgeNumbers(compared), nil
}

// judgeNumbers tells which numbers lack their document, and which documents their claim.
func judgeNumbers(n billing.Numbering) (findings []finding) {
	if len(n.Apart) == 0 {
		return []finding{{checkNumbers, statusOK,
			fmt.Sprintf("%d claimed, each has its document", n.Claimed), ""}}
	}
	for _, a := range n.Apart[:min(len(n.Apart), numbersListed)] {
		table, documents := "invoices", fmt.Sprintf("%d documents from %s on", a.Count, a.Number)
		if a.Kind == billing.KindCreditNote {
			table = "credit_notes"
		}
		if a.Count == 1 {
			documents = a.Number
		}
		switch {
		case a.Claim < 0:
			findings = append(findings, finding{checkNumbers, statusFail, fmt.Sprintf(
				"%s in table %s, which nothing in topic %s claimed", documents, table, stream.TopicClaims),
				"bring the topic back from its backup if it was recreated or set back: its " +
					"numbers would be given twice; else find who may write to table " + table})
		case a.Unfinished:
			findings = append(findings, finding{checkNumbers, statusWarn, fmt.Sprintf(
				"%s: claimed at offset %d and not written yet", documents, a.Claim),
				"start billing, which finishes what another began: tollgate billing, or tollgate all"})
		default:
			findings = append(findings, finding{checkNumbers, statusFail, fmt.Sprintf(
				"%s: claimed at offset %d and issued, but not in table %s", documents, a.Claim, table),
				"restore table " + table + " from a backup: documents are never made twice; then compare " +
					"contents too: tollgate audit"})
		}
	}
	if more := len(n.Apart) - numbersListed; more > 0 {
		last := &findings[len(findings)-1]
		last.found += fmt.Sprintf("; and %d more claims or stretches", more)
	}
	return findings
}

// unreached tells that a server that the numbers need was not opened, which its own finding says.
func unreached(findings []finding) bool {
	return slices.ContainsFunc(findings, func(f finding) bool {
		return f.status == statusFail && (f.check == "kafka connection" || f.check == "clickhouse connection")
	})
}
