package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"tollgate/anomaly"
	"tollgate/anomaly/notify"
	"tollgate/schemas"
	"tollgate/schemas/stream"
)

// alarmStore keeps alerts and what became of them; *anomaly.Store is one.
type alarmStore interface {
	Alerts(ctx context.Context, filter anomaly.Filter) ([]schemas.Alert, error)
	PutAlerts(ctx context.Context, alerts []schemas.Alert) error
	PutDeliveries(ctx context.Context, deliveries []anomaly.Delivery) error
}

// alarms opens and resolves the alerts about the installation itself: table and topic at once, webhooks by
// the next sweep of whoever runs the anomaly role.
type alarms struct {
	store   alarmStore
	produce func(ctx context.Context, records []stream.Record) ([]stream.Position, error)
	now     func() time.Time
	log     *slog.Logger
	wishes  chan alarm
}

// alarm is a wish: that an alert be open, or, where off, that it be not.
type alarm struct {
	alert schemas.Alert // Detector, Severity, Entity, Sentence, Evidence, Samples
	off   bool
}

func (w *alarm) key() string {
	return w.alert.Detector + "/" + w.alert.Entity.Kind + ":" + w.alert.Entity.Value
}

// alarmsWaiting bounds the wishes that wait for ClickHouse. Default 1,024: every partition of an installation
// wishes once when it stops and once when it goes on.
const alarmsWaiting = 1_024

func newAlarms(store alarmStore, produce func(context.Context, []stream.Record) ([]stream.Position, error),
	now func() time.Time, log *slog.Logger) *alarms {
	return &alarms{store: store, produce: produce, now: now, log: log,
		wishes: make(chan alarm, alarmsWaiting)}
}

// wish asks for an alert to be opened or resolved; it never waits.
func (a *alarms) wish(w alarm) {
	select {
	case a.wishes <- w:
	default:
		a.log.Error("an alert is not written: too many wait for ClickHouse", "alert", w.key(),
			"sentence", w.alert.Sentence)
	}
}

// stopped opens an alert where only a person can let a partition go on.
func (a *alarms) stopped(group string, s stream.Stop) {
	if alert, ok := stopAlert(group, s); ok {
		a.wish(alarm{alert: alert})
	}
}

// reads resolves what was open about a partition that is read.
func (a *alarms) reads(group, topic string, partition int) {
	a.wish(alarm{off: true, alert: schemas.Alert{Detector: schemas.DetectorGap,
		Entity: partitionEntity(group, topic, partition)}})
}

func partitionEntity(group, topic string, partition int) schemas.Entity {
	return schemas.Entity{Kind: schemas.EntityPartition,
		Value: fmt.Sprintf("%s %s/%d", group, topic, partition)}
}

// Names of the evidence of a gap.
const (
	evidenceWant = "expected_offset"
	evidenceGot  = "next_offset"
)

// stopAlert is the alert of a stop that only a person can end; false for any other.
func stopAlert(group string, s stream.Stop) (alert schemas.Alert, ok bool) {
	alert = schemas.Alert{Detector: schemas.DetectorGap, Severity: schemas.SeverityHigh,
		Entity: partitionEntity(group, s.Topic, s.Partition)}
	var gap stream.GapError
	recreated := errors.Is(s.Err, stream.ErrRecreated)
	if errors.As(s.Err, &gap) {
		alert.Evidence = []schemas.Evidence{{Name: evidenceWant, Value: float64(gap.Want), Unit: "offset"},
			{Name: evidenceGot, Value: float64(gap.Got), Unit: "offset"}}
		recreated = gap.Recreated
	}
	if recreated {
		alert.Evidence = nil // offsets of two lives say nothing beside each other
	}
	stands := fmt.Sprintf("%s does not read %s partition %d: ", group, s.Topic, s.Partition)
	switch {
	case recreated:
		alert.Sentence = stands + "the topic was deleted and created again; tollgate stream " +
			"accept-generation " + s.Topic + " lets readers go over to the new one"
	case alert.Evidence == nil:
		return schemas.Alert{}, false
	case gap.Got < gap.Want:
		alert.Sentence = stands + fmt.Sprintf("the log lost its end, %d records that had "+
			"been read are gone; tollgate stream accept-generation %s reads what is left again",
			gap.Want-gap.Got, s.Topic)
	default:
		alert.Sentence = stands + fmt.Sprintf("%d records from offset %d on are missing; "+
			"tollgate stream accept-gap %s %d reads on from %d", gap.Got-gap.Want, gap.Want, s.Topic,
			s.Partition, gap.Got)
	}
	return alert, true
}

// run carries wishes out until ctx ends. While ClickHouse is away they wait.
func (a *alarms) run(ctx context.Context) error {
	for {
		var wishes []alarm
		select {
		case <-ctx.Done():
			return nil
		case w := <-a.wishes:
			wishes = append(wishes, w)
		}
		for len(a.wishes) > 0 { // all that wait cost one question
			wishes = append(wishes, <-a.wishes)
		}
		for wait := time.Second; ; wait = min(2*wait, 30*time.Second) {
			err := a.carryOut(ctx, wishes)
			if err == nil || ctx.Err() != nil {
				break
			}
			a.log.Error("alerts are not written; it is tried again", "alerts", len(wishes),
				"after", wait, "error", err)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(wait):
			}
		}
	}
}

// carryOut writes the revisions that wishes ask for, to the table and then to the topic.
func (a *alarms) carryOut(ctx context.Context, wishes []alarm) error {
	open := map[string]schemas.Alert{}
	asked := map[string]bool{}
	for _, w := range wishes {
		if asked[w.alert.Detector] {
			continue
		}
		asked[w.alert.Detector] = true
		list, err := a.store.Alerts(ctx,
			anomaly.Filter{Open: true, Detector: w.alert.Detector, Limit: alarmsWaiting})
		if err != nil {
			return err
		}
		for _, one := range list {
			open[one.DedupeKey] = one
		}
	}
	revisions := revise(open, wishes, a.now().UTC().Truncate(time.Second))
	if len(revisions) == 0 {
		return nil
	}
	if err := a.store.PutAlerts(ctx, revisions); err != nil {
		return err
	}
	a.tell(ctx, revisions)
	return nil
}

// tell writes revisions to the topic. Where that fails, the next sweep of the anomaly role does it.
func (a *alarms) tell(ctx context.Context, alerts []schemas.Alert) {
	var records []stream.Record
	var noted []anomaly.Delivery
	for i := range alerts {
		value, err := json.Marshal(&alerts[i])
		if err != nil {
			panic("BUG: alert to JSON: " + err.Error())
		}
		records = append(records, stream.Record{Topic: stream.TopicAlerts, Partition: stream.AnyPartition,
			Key: []byte(alerts[i].DedupeKey), Value: value})
		noted = append(noted, anomaly.Delivery{ID: alerts[i].ID, Revision: alerts[i].Revision,
			Target: anomaly.TopicTarget, Outcome: notify.Delivered, At: a.now()})
	}
	_, err := a.produce(ctx, records)
	if err == nil {
		err = a.store.PutDeliveries(ctx, noted)
	}
	if err != nil && ctx.Err() == nil {
		a.log.Warn("alerts are in the table, but perhaps not yet in their topic",
			"alerts", len(alerts), "error", err)
	}
}

// revise is what has to be written so that wishes hold, in their order, of alerts that are open: an alert is
// opened once, updated where it says something else now, and resolved once.
func revise(open map[string]schemas.Alert, wishes []alarm, now time.Time) (out []schemas.Alert) {
	for _, w := range wishes {
		key := w.key()
		alert, is := open[key]
		switch {
		case w.off && !is, !w.off && is && alert.Sentence == w.alert.Sentence:
			continue
		case w.off:
			alert.Status, alert.Resolved = schemas.AlertResolved, now
		case is:
			alert.Status, alert.Severity, alert.Sentence = schemas.AlertUpdated, w.alert.Severity,
				w.alert.Sentence
			alert.Evidence, alert.Samples = w.alert.Evidence, w.alert.Samples
		default:
			alert = w.alert
			alert.Status, alert.Opened, alert.DedupeKey = schemas.AlertOpened, now, key
			alert.ID = alarmID(key, now)
		}
		alert.Revision, alert.Updated = alert.Revision+1, now
		out = append(out, alert)
		if open[key] = alert; w.off {
			delete(open, key)
		}
	}
	return out
}

// alarmID is a function of what the alert is about and when it was opened: written again it is the same
// alert.
func alarmID(key string, opened time.Time) string {
	sum := sha256.Sum256([]byte(key + " " + opened.Format(time.RFC3339)))
	return "al_" + hex.EncodeToString(sum[:16])
}
