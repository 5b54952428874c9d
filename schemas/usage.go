package schemas

import "time"

// UsageQuery asks for quantities of meters over a period. Zero fields do not restrict.
type UsageQuery struct {
	Meters    []string            // none = all
	Customers []string            // none = all, with '' (unattributed) left out unless it is named
	Period    Period              // required
	By        []string            // beside meter: "customer", a time part (hour, day, month), or a dimension
	Where     map[string][]string // dimension → accepted values
	Zone      *time.Location      // of time parts; default UTC
	Cut       CutID               // read these heads; "" = the newest of each bucket
}

// Usage is a quantity over time: one row of an answer to a UsageQuery.
type Usage struct {
	Meter      string            `json:"meter"`
	Customer   string            `json:"customer"`
	From       time.Time         `json:"from"`
	To         time.Time         `json:"to"`
	Dimensions map[string]string `json:"dimensions"`
	Quantity   Decimal           `json:"quantity"`
	Unit       string            `json:"unit"`
}

// CutID names a stored cut: the hex SHA-256 of its sorted heads.
type CutID string
