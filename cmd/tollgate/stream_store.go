package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	native "github.com/ClickHouse/clickhouse-go/v2"

	"tollgate/schemas/clickhouse"
	"tollgate/schemas/stream"
)

// streamStore is the SQL of generations and accepted gaps.
type streamStore struct{ db *clickhouse.DB }

const insertGeneration = `
INSERT INTO generations (topic, topic_id, n, accepted, written)
SELECT {topic:String}, {id:String}, {n:Int64}, {accepted:UInt8} = 1, {written:DateTime64(3)}`

// putGeneration repeats a number that was drawn for a life of a topic; a repeated write is the same row.
func (s *streamStore) putGeneration(ctx context.Context, l life, now time.Time) error {
	accepted := 0
	if l.accepted {
		accepted = 1
	}
	err := s.db.Conn().Exec(ctx, insertGeneration, native.Named("topic", l.topic), native.Named("id", l.id),
		native.Named("n", l.n), native.Named("accepted", accepted),
		native.DateNamed("written", now.UTC(), native.MilliSeconds))
	if err != nil {
		return fmt.Errorf("write generation %d of topic %s: %w", l.n, l.topic, err)
	}
	return nil
}

const selectAccepted = `
SELECT count() FROM generations
WHERE topic = {topic:String} AND topic_id = {id:String} AND n = {n:Int64} AND accepted`

// accepted tells whether somebody let readers go over to a generation of a topic.
func (s *streamStore) accepted(ctx context.Context, topic, id string, n int64) (bool, error) {
	var rows uint64
	row := s.db.Conn().QueryRow(ctx, selectAccepted, native.Named("topic", topic),
		native.Named("id", id), native.Named("n", n))
	if err := row.Scan(&rows); err != nil {
		return false, fmt.Errorf("read whether the generation of topic %s is accepted: %w", topic, err)
	}
	return rows > 0, nil
}

// lost is what is missing of a partition, apart from how it was found.
type lost struct {
	topic     string
	topicID   [16]byte
	partition int
	want, got int64
}

func lostBy(g stream.GapError) lost { return lost{g.Topic, g.TopicID, g.Partition, g.Want, g.Got} }

// within tells whether l lies in what was accepted as from..to: a stretch of lost records covers every gap
// inside of it, so that each reader of a topic passes it.
func (l lost) within(from, to int64) bool { return from <= l.want && l.got <= to }

// truncated tells that the log lost its end: its offsets are given a second time.
func (l lost) truncated() bool { return l.got < l.want }

const insertGap = `
INSERT INTO accepted_gaps (topic, topic_id, partition, want, got, written)
SELECT {topic:String}, {id:String}, {partition:Int32}, {want:Int64}, {got:Int64}, {written:DateTime64(3)}`

// putGap notes that a gap is accepted; a repeated write is the same row.
func (s *streamStore) putGap(ctx context.Context, l lost, now time.Time) error {
	err := s.db.Conn().Exec(ctx, insertGap, native.Named("topic", l.topic),
		native.Named("id", hex.EncodeToString(l.topicID[:])), native.Named("partition", l.partition),
		native.Named("want", l.want), native.Named("got", l.got),
		native.DateNamed("written", now.UTC(), native.MilliSeconds))
	if err != nil {
		return fmt.Errorf("accept the gap of %s partition %d: %w", l.topic, l.partition, err)
	}
	return nil
}

const selectGaps = `
SELECT DISTINCT want, got FROM accepted_gaps
WHERE topic = {topic:String} AND topic_id = {id:String} AND partition = {partition:Int32} ORDER BY want, got`

// gaps are what was accepted of a partition of one life of a topic, as pairs of want and got.
func (s *streamStore) gaps(ctx context.Context, topic string, topicID [16]byte,
	partition int) (out [][2]int64, err error) {
	rows, err := s.db.Conn().Query(ctx, selectGaps, native.Named("topic", topic),
		native.Named("id", hex.EncodeToString(topicID[:])), native.Named("partition", partition))
	if err != nil {
		return nil, fmt.Errorf("read the accepted gaps of %s partition %d: %w", topic, partition, err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var one [2]int64
		if err := rows.Scan(&one[0], &one[1]); err != nil {
			return nil, fmt.Errorf("read the accepted gaps of %s partition %d: %w", topic, partition, err)
		}
		out = append(out, one)
	}
	return out, rows.Err()
}
