package quota

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"tollgate/schemas"
)

// Round is what the last whole round of reconciliation noted in Redis.
type Round struct {
	// Asked is the request that it answered, "" = it came by itself.
	Asked string `json:"asked,omitempty"`
	// Reach is, by shard, the last record of usage-events when the round began: what its deliveries make a
	// counter differ from usage by, the round has put right.
	Reach map[int]schemas.Position `json:"reach"`
}

// askedFor is how long a request for a round stands. Default 10 min: two rounds come by themselves meanwhile.
const askedFor = 10 * time.Minute

// AskRound asks whoever reconciles for a round at once; the name of the request is in the Round that answers.
func (c *Counter) AskRound(ctx context.Context, name string) error {
	s := c.o.Store
	if err := s.client.Set(ctx, s.key(0, "asked"), name, askedFor).Err(); err != nil {
		return fmt.Errorf("ask for a reconciliation: %w", err)
	}
	return nil
}

// Asked is the last request for a round, "" = none.
func (c *Counter) Asked(ctx context.Context) (string, error) {
	name, err := c.o.Store.text(ctx, "asked")
	if err != nil {
		return "", fmt.Errorf("look for requests to reconcile: %w", err)
	}
	return name, nil
}

// NoteRound notes a round in which every counter was compared.
func (c *Counter) NoteRound(ctx context.Context, r Round) error {
	value, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("note a reconciliation: %w", err)
	}
	s := c.o.Store
	if err := s.client.Set(ctx, s.key(0, "round"), value, 0).Err(); err != nil {
		return fmt.Errorf("note a reconciliation: %w", err)
	}
	return nil
}

// LastRound is the last round that was noted; the zero Round where Redis knows of none.
func (c *Counter) LastRound(ctx context.Context) (r Round, err error) {
	text, err := c.o.Store.text(ctx, "round")
	if err == nil && text != "" {
		err = json.Unmarshal([]byte(text), &r)
	}
	if err != nil {
		return r, fmt.Errorf("read the last reconciliation: %w", err)
	}
	return r, nil
}

// text is the value of a key of the first bucket, "" where there is none.
func (s *Store) text(ctx context.Context, name string) (string, error) {
	values, err := s.client.MGet(ctx, s.key(0, name)).Result() // which knows no error for what is not there
	if err != nil {
		return "", err
	}
	text, _ := values[0].(string)
	return text, nil
}
