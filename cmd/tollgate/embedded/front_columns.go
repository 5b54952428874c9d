package embedded

import "github.com/ClickHouse/ch-go/proto"

// resultColumn is the name and type of a column.
type resultColumn struct{ name, typ string }

// described asks the engine what the columns of a SELECT are, without running it: that costs less than
// running it for no row.
func (s *session) described(sql string, params []parameter) (columns []resultColumn, err error) {
	const alone = ") SETTINGS describe_compact_output = 1, describe_include_subcolumns = 0, " +
		"describe_include_virtual_columns = 0"
	describe := "DESCRIBE TABLE (" + sql + "\n" + alone
	err = s.engine.run(describe, "RowBinary", params, func(result []byte) (err error) {
		for w := (&window{buf: result}); w.pos < len(w.buf); {
			var c resultColumn
			if c.name, err = w.text(); err != nil {
				return err
			}
			if c.typ, err = w.text(); err != nil {
				return err
			}
			columns = append(columns, c)
		}
		return nil
	})
	return columns, err
}

// sendHeader runs a statement that has no rows, and sends a block that has the columns of its result.
// RowBinary writes them even then.
func (s *session) sendHeader(sql string, params []parameter) error {
	var columns []resultColumn
	err := s.engine.run(sql, "RowBinaryWithNamesAndTypes", params, func(result []byte) error {
		w := &window{buf: result}
		n, err := w.length()
		if err != nil {
			return err
		}
		columns = make([]resultColumn, min(n, len(result)))
		for i := range columns {
			if columns[i].name, err = w.text(); err != nil {
				return err
			}
		}
		for i := range columns {
			if columns[i].typ, err = w.text(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return s.sendColumns(columns)
}

// sendColumns sends a block without rows.
func (s *session) sendColumns(columns []resultColumn) error {
	var block proto.Buffer
	proto.Block{Info: proto.BlockInfo{BucketNum: -1}, Columns: len(columns)}.EncodeAware(&block, s.revision)
	for _, c := range columns {
		block.PutString(c.name)
		block.PutString(c.typ)
		if proto.FeatureCustomSerialization.In(s.revision) {
			block.PutBool(false)
		}
	}
	return s.sendBlock(&block)
}
