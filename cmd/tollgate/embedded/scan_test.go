package embedded_test

import (
	"reflect"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// newOf is a variable into which clickhouse-go can scan a column.
func newOf(kind driver.ColumnType) any { return reflect.New(kind.ScanType()).Interface() }

// valueOf is what such a variable holds.
func valueOf(variable any) any { return reflect.ValueOf(variable).Elem().Interface() }
