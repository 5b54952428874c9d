package schemas

// CreditNote takes back all or part of one issued invoice. Its amounts are positive where they give money
// back, so an invoice less its full credit note is zero in every line, tax and total.
type CreditNote struct {
	Number   string `json:"number"` // "ACME-CN-2026-000003"
	Year     int    `json:"year"`
	Sequence int64  `json:"sequence"`
	Date     string `json:"date"`
	Invoice  string `json:"invoice"` // the number of the invoice it corrects
	Issuer   Party  `json:"issuer"`
	Customer Party  `json:"customer"`
	Currency string `json:"currency"`
	Reason   string `json:"reason"`
	// Rebill tells that what is credited counts as not billed: the next close bills it anew.
	Rebill bool         `json:"rebill"`
	Lines  []CreditLine `json:"lines"`
	Taxes  []TaxLine    `json:"taxes,omitempty"`
	Net    Decimal      `json:"net"`
	Tax    Decimal      `json:"tax"`
	Total  Decimal      `json:"total"`
}

// CreditLine takes back part of one line of the invoice.
type CreditLine struct {
	Line   int     `json:"line"` // its number on the invoice
	Label  string  `json:"label"`
	Amount Decimal `json:"amount"` // net; same sign as the line
}
