package schemas

import _ "embed"

// AccessEventSchema is the published JSON Schema (2020-12) of what producers may send as native JSON.
//
//go:embed access_event.schema.json
var AccessEventSchema []byte
