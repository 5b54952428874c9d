package console

import (
	"tollgate/collector"
	"tollgate/collector/decode"
)

// reasonTexts say in a sentence what the words of rejections mean, and who can mend it.
var reasonTexts = map[string]string{
	decode.ReasonUndecodable: "not in the form of its format at all: see what the gateway's " +
		"log plugin writes",
	decode.ReasonUnknownFormat: "no format recognises it: name the format of the topic in " +
		"collector.sources",
	decode.ReasonTooLarge:         "larger than one record or event may be",
	decode.ReasonUnknownField:     "a field that the schema does not have: perhaps a misspelt quantity",
	decode.ReasonDuplicateField:   "the same field twice: which of the two counts is nobody's to guess",
	decode.ReasonMissingField:     "a field that must be there is not",
	decode.ReasonWrongValue:       "a field whose value is not what it must be",
	decode.ReasonTime:             "a time without zone or meaning",
	collector.ReasonBadHeader:     "a header of ours holds something else: see who writes to the topic",
	collector.ReasonForeignSource: "it names a source that its topic or ingest key is not bound to",
	collector.ReasonNoID: "it has no id, and its way gives it none: send ids, or " +
		"an Idempotency-Key",
	collector.ReasonBadID:        "its id or source is too long or not printable",
	collector.ReasonBadTime:      "its time is not between 2000 and 2100",
	collector.ReasonBadQuantity:  "a number with more than 12 decimals, beyond 10¹⁵, or given twice",
	collector.ReasonBadAttribute: "an attribute given twice, or with too long a name",
	collector.ReasonBadNumber:    "a negative size or latency",
	collector.ReasonBadCustomer:  "its customer is too long or not printable",
	collector.ReasonUntrustedCustomer: "it names its customer, but its source is not trusted to " +
		"(customer: event)",
	collector.ReasonNoAmendRight: "it amends or voids without the right to",
	collector.ReasonNoReason:     "it amends or voids without saying why",
	"below_floor":                "its month is closed for good: nothing below the floor is counted",
}

func reasonText(word string) string { return reasonTexts[word] }
