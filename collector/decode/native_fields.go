package decode

// field is a member of the native schema.
type field uint8

const (
	noField field = iota
	fieldSource
	fieldID
	fieldTime
	fieldRevision
	fieldVoid
	fieldReason
	fieldCredential
	fieldAPIKey
	fieldCustomer
	fieldSubject
	fieldMethod
	fieldHost
	fieldPath
	fieldRoute
	fieldService
	fieldVersion
	fieldStatus
	fieldLatency
	fieldBytesIn
	fieldBytesOut
	fieldAddress
	fieldUserAgent
	fieldQuantities
	fieldAttributes
)

// fieldNames are the members of the native schema, by field.
var fieldNames = [...]string{"", "source", "id", "time", "revision", "void", "reason", "credential",
	"api_key",
	"customer", "subject", "method", "host", "path", "route", "service", "version", "status", "latency_ms",
	"bytes_in", "bytes_out", "address", "user_agent", "quantities", "attributes"}

func fieldOf(name string) field {
	switch name {
	case "source":
		return fieldSource
	case "id":
		return fieldID
	case "time":
		return fieldTime
	case "revision":
		return fieldRevision
	case "void":
		return fieldVoid
	case "reason":
		return fieldReason
	case "credential":
		return fieldCredential
	case "api_key":
		return fieldAPIKey
	case "customer":
		return fieldCustomer
	case "subject":
		return fieldSubject
	case "method":
		return fieldMethod
	case "host":
		return fieldHost
	case "path":
		return fieldPath
	case "route":
		return fieldRoute
	case "service":
		return fieldService
	case "version":
		return fieldVersion
	case "status":
		return fieldStatus
	case "latency_ms":
		return fieldLatency
	case "bytes_in":
		return fieldBytesIn
	case "bytes_out":
		return fieldBytesOut
	case "address":
		return fieldAddress
	case "user_agent":
		return fieldUserAgent
	case "quantities":
		return fieldQuantities
	case "attributes":
		return fieldAttributes
	}
	return noField
}
