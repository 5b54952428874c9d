package anomaly

import (
	"context"
	"errors"
	"fmt"
	"time"

	native "github.com/ClickHouse/clickhouse-go/v2"
)

// NoticeDelivery says what became of one quota notice at one target.
type NoticeDelivery struct {
	ID      string
	Target  string
	Outcome string
	At      time.Time
}

// PutNoticeDeliveries notes what became of quota notices.
func (s *Store) PutNoticeDeliveries(ctx context.Context, deliveries []NoticeDelivery) error {
	batch, err := s.db.Conn().PrepareBatch(ctx, `INSERT INTO notice_deliveries (id, target, outcome, at)`)
	if err != nil {
		return fmt.Errorf("note %d deliveries of notices: %w", len(deliveries), err)
	}
	for _, d := range deliveries {
		if err := batch.Append(d.ID, d.Target, d.Outcome, d.At); err != nil {
			return fmt.Errorf("note delivery of notice %s: %w", d.ID, errors.Join(err, batch.Abort()))
		}
	}
	if err := batch.Send(); err != nil {
		return fmt.Errorf("note %d deliveries of notices: %w", len(deliveries), err)
	}
	return nil
}

const deliveredNotices = `
SELECT DISTINCT id FROM notice_deliveries WHERE target = {target:String} AND id IN {ids:Array(String)}`

// DeliveredNotices tells which of the notices a target has got or given up.
func (s *Store) DeliveredNotices(ctx context.Context, target string,
	ids []string) (found map[string]bool, err error) {
	rows, err := s.db.Conn().Query(ctx, deliveredNotices,
		native.Named("target", target), native.Named("ids", ids))
	if err != nil {
		return nil, fmt.Errorf("look for %d notices delivered to %s: %w", len(ids), target, err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	found = map[string]bool{}
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, fmt.Errorf("scan notice delivered to %s: %w", target, err)
		}
		found[id] = true
	}
	return found, rows.Err()
}
