package stream

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"sync"
	"time"
)

// Claim is somebody's wish to do a thing once, such as to issue the next invoices of a number series.
type Claim struct {
	// Series is what is drawn from: issuer, kind and year, say. 1 to 200 bytes.
	Series string
	// Previous is the offset of the series' last valid claim, as the claimer knew it; -1 where there was
	// none.
	Previous int64
	// Plan is what the claimer will do, as JSON, up to MaxPlanBytes: anybody can do it in its place.
	Plan json.RawMessage
}

// ClaimRecord is a claim as it stands in the topic.
type ClaimRecord struct {
	Claim
	// Offset is its place in the topic, and its name in the chain.
	Offset int64
	// Time is when it was written, by the claimer's clock: to show, not to decide.
	Time time.Time
	// Token tells this claimer's record from an equal one of another; a record that was sent twice has one
	// token.
	Token string
	// Valid says that the series was drawn by it; else it came too late and is void.
	Valid bool
}

// MaxPlanBytes is the largest plan of a claim: 900 KiB. Not less: a run's plan lists its invoices, some
// 20,000 at 45 bytes. Not more: it is one Kafka record.
const MaxPlanBytes = 900 << 10

// Chain decides which claims are valid, from the claims in the order of the topic: of each series, the first
// claim whose Previous is the series' last valid claim continues it, all others are void. So everybody who
// reads the topic decides the same. The zero Chain has read nothing. It is pure: no clock, no I/O.
type Chain struct {
	last map[string]int64
}

// Add reads the next claim of the topic and reports whether it is valid.
func (c *Chain) Add(r ClaimRecord) bool {
	if r.Previous != c.Last(r.Series) {
		return false
	}
	if c.last == nil {
		c.last = make(map[string]int64)
	}
	c.last[r.Series] = r.Offset
	return true
}

// Last is the offset of a series' last valid claim, -1 where there is none.
func (c *Chain) Last(series string) int64 {
	if offset, ok := c.last[series]; ok {
		return offset
	}
	return -1
}

func (c *Chain) clone() *Chain { return &Chain{last: maps.Clone(c.last)} }

// claimVersion is the form of the records; a reader that meets a newer one stops, because it could not decide
// as the newer ones do.
const claimVersion = 1

// claimRecord is the JSON form of a claim in the topic.
type claimRecord struct {
	Version  int             `json:"v"`
	Series   string          `json:"series"`
	Previous int64           `json:"previous"`
	Token    string          `json:"token"`
	Plan     json.RawMessage `json:"plan"`
}

// decodeClaim reads a record of the topic. ok is false for what is no claim at all: everybody passes over it.
func decodeClaim(r Record) (out ClaimRecord, ok bool, err error) {
	var c claimRecord
	if json.Unmarshal(r.Value, &c) != nil || c.Version < 1 {
		return out, false, nil
	}
	if c.Version > claimVersion {
		return out, false, fmt.Errorf("claim at offset %d has form %d, this program reads up to %d: "+
			"upgrade it before it may claim or issue", r.Offset, c.Version, claimVersion)
	}
	return ClaimRecord{Claim: Claim{Series: c.Series, Previous: c.Previous, Plan: c.Plan}, Offset: r.Offset,
		Time: r.Time, Token: c.Token}, c.Series != "", nil
}

// Claims is the door to the topic of claims. It is safe for concurrent use.
type Claims struct {
	c     *Client
	p     *Producer
	topic string

	// patience bounds the wait for an answer to one fetch: a tool must end, with what is wrong, where Kafka
	// has gone, while a fetcher by itself tries for ever. Default answerTimeout.
	patience time.Duration

	mu      sync.Mutex
	f       *fetcher
	chain   *Chain
	records []ClaimRecord
}

// NewClaims returns the door to a topic of claims; TopicClaims is ours. The topic must exist with one
// partition and be kept for ever.
func (c *Client) NewClaims(ctx context.Context, topic string) (*Claims, error) {
	info, err := c.DescribeTopics(ctx, topic)
	if err != nil {
		return nil, fmt.Errorf("open claims: %w", err)
	}
	ms, known := info[0].Retention()
	switch {
	case !info[0].Exists:
		return nil, fmt.Errorf("open claims: topic %s does not exist", topic)
	case info[0].Partitions != 1:
		return nil, fmt.Errorf("open claims: topic %s has %d partitions, a chain needs exactly 1",
			topic, info[0].Partitions)
	case known && ms >= 0:
		return nil, fmt.Errorf("open claims: topic %s forgets after %d ms: set its retention.ms to -1, "+
			"or numbers will be drawn twice", topic, ms)
	}
	p, err := c.NewProducer(ProducerOptions{MaxInFlight: 2 * MaxRecordBytes})
	if err != nil {
		return nil, err
	}
	f := &fetcher{c: c, topic: topic, topicID: info[0].ID, wait: 100 * time.Millisecond, maxBytes: 1 << 20}
	return &Claims{c: c, p: p, topic: topic, patience: answerTimeout, f: f, chain: new(Chain)}, nil
}

// Close ends the door's connections.
func (s *Claims) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.f.drop()
	return s.p.Close()
}

// Append writes a claim and returns its offset. Whether it is valid is known only after Read has passed that
// offset; Claim does both.
func (s *Claims) Append(ctx context.Context, c Claim) (int64, error) {
	return s.append(ctx, c, rand.Text())
}

func (s *Claims) append(ctx context.Context, c Claim, token string) (int64, error) {
	switch {
	case c.Series == "" || len(c.Series) > 200:
		return -1, fmt.Errorf("claim: series %q must have 1 to 200 bytes", c.Series)
	case len(c.Plan) > MaxPlanBytes:
		return -1, fmt.Errorf("claim of %s: the plan has %d bytes, at most %d fit", c.Series,
			len(c.Plan), MaxPlanBytes)
	case c.Previous < -1:
		return -1, fmt.Errorf("claim of %s: previous is %d, must be an offset or -1", c.Series, c.Previous)
	}
	value, err := json.Marshal(claimRecord{Version: claimVersion, Series: c.Series, Previous: c.Previous,
		Token: token, Plan: c.Plan})
	if err != nil {
		return -1, fmt.Errorf("claim of %s: the plan is not JSON: %w", c.Series, err)
	}
	at, err := s.p.Produce(ctx, []Record{{Topic: s.topic, Partition: 0, Key: []byte(c.Series), Value: value}})
	if err != nil {
		return -1, fmt.Errorf("claim of %s: %w", c.Series, err)
	}
	return at[0].Offset, nil
}

// Read returns all claims up to the high watermark that the topic has now, the valid ones marked, in order.
// It reads from the beginning once, then only what is new; the slice is shared and not to be changed.
func (s *Claims) Read(ctx context.Context) ([]ClaimRecord, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var w Watermark
	err := s.c.retry(ctx, func(ctx context.Context) (err error) {
		w,
			err = s.c.watermark(ctx, s.topic, 0)
		return
	})
	if err != nil {
		return nil, fmt.Errorf("read claims: %w", err)
	}
	for s.f.next < w.High {
		b, err := s.fetch(ctx)
		if err != nil {
			return nil, fmt.Errorf("read claims: %w", err)
		}
		if err := s.add(b); err != nil {
			return nil, fmt.Errorf("read claims: %w", err)
		}
	}
	return s.records[:len(s.records):len(s.records)], nil
}

// fetch returns what follows, or what was wrong all the time of patience.
func (s *Claims) fetch(ctx context.Context) (Batch, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.patience,
		fmt.Errorf("Kafka has not answered a fetch of topic %s within %v", s.topic, s.patience))
	defer cancel()
	return s.f.fetch(ctx)
}

// add takes a batch as a whole or, on an error, not at all, so that the next Read meets it again.
func (s *Claims) add(b Batch) error {
	chain, records := s.chain.clone(), s.records
	for _, r := range b.Records {
		claim, ok, err := decodeClaim(r)
		if err != nil {
			s.f.seek(b.Base)
			return err
		}
		if !ok {
			s.c.log.Warn("passing over a record that is no claim", "topic", s.topic, "offset", r.Offset)
			continue
		}
		claim.Valid = chain.Add(claim)
		records = append(records, claim)
	}
	s.chain, s.records = chain, records
	return nil
}

// Claim appends a claim that continues the series, as this process knows it now, and reads it back. Of all
// who claim at the same time exactly one wins; the others get the record that won in their place, and may
// carry out its plan. After an error it is unknown whether the claim was won: Read tells.
func (s *Claims) Claim(ctx context.Context, series string, plan json.RawMessage) (r ClaimRecord,
	won bool, err error) {
	if _, err := s.Read(ctx); err != nil {
		return r, false, err
	}
	s.mu.Lock()
	previous := s.chain.Last(series)
	s.mu.Unlock()
	return s.ClaimAfter(ctx, Claim{Series: series, Previous: previous, Plan: plan})
}

// ClaimAfter is Claim for a plan that was made knowing that c.Previous is the series' last valid claim: it
// loses where the series has gone on since.
func (s *Claims) ClaimAfter(ctx context.Context, c Claim) (r ClaimRecord, won bool, err error) {
	token := rand.Text()
	if _, err = s.append(ctx, c, token); err != nil {
		return r, false, err
	}
	all, err := s.Read(ctx)
	if err != nil {
		return r, false, err
	}
	for _, r = range all {
		if r.Valid && r.Series == c.Series && r.Previous == c.Previous {
			return r, r.Token == token, nil
		}
	}
	return ClaimRecord{}, false, fmt.Errorf("claim of %s after %d: that offset is no valid "+
		"claim of the series", c.Series, c.Previous)
}
