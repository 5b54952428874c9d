// Package billing turns usage into documents: it rates quantities at prices, draws up, issues and credits
// invoices, closes periods and explains lines. It does not count usage (aggregator), decide admission (quota)
// or say what was agreed (schemas/catalog); these come in through the small interfaces of sources.go. The
// role `tollgate billing` and the tools `tollgate invoice …` call it.
//
// An issued invoice is a pure function of its run's plan, which is a claim in a log that everybody reads in
// the same order. Whoever finds a claim whose documents are not all written recomputes them, identical to the
// last byte, and writes them again: a crash at any step loses nothing and doubles nothing.
package billing
