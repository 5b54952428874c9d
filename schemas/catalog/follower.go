package catalog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// FollowerOptions say how a role follows the store. The zero value of a field is its default.
type FollowerOptions struct {
	// Every is how often the store is asked for changes.
	//
	// Default 1s. Not less: each role of each process asks two short queries. Not more: a blocked key should
	// be refused at once, as people understand it.
	Every time.Duration
	// AbandonAfter is how long a change number may stay without its rows before the change is given up, so
	// that later changes are seen.
	//
	// Default 6m, three times what a writer gives itself. Not more: later changes wait as long.
	AbandonAfter time.Duration
	// Log gets what fails while the follower goes on. Default slog.Default().
	Log *slog.Logger
}

// Follower holds the newest Snapshot and swaps it whole when something changes. It is safe for concurrent
// use.
type Follower struct {
	store   *Store
	options FollowerOptions
	current atomic.Pointer[Snapshot]

	polling sync.Mutex // one poll at a time; guards hole and since
	hole    uint64     // the change number that is awaited, 0 = none
	since   time.Time  // since when, by the monotonic clock

	subscribers sync.Mutex // guards channels
	channels    map[chan *Snapshot]struct{}
}

// NewFollower loads everything that is settled. Call Run to follow it.
func NewFollower(ctx context.Context, store *Store, options FollowerOptions) (*Follower, error) {
	if options.Every == 0 {
		options.Every = time.Second
	}
	if options.AbandonAfter == 0 {
		options.AbandonAfter = 6 * time.Minute
	}
	if options.Log == nil {
		options.Log = slog.Default()
	}
	if options.AbandonAfter <= writeWithin {
		return nil, fmt.Errorf("follow catalog: AbandonAfter %s must be more than the %s that a writer has",
			options.AbandonAfter, writeWithin)
	}
	f := &Follower{store: store, options: options, channels: map[chan *Snapshot]struct{}{}}
	s, err := store.Snapshot(ctx, 0)
	if err != nil {
		return nil, fmt.Errorf("follow catalog: %w", err)
	}
	f.current.Store(s)
	return f, nil
}

// Current is the newest snapshot; never nil.
func (f *Follower) Current() *Snapshot { return f.current.Load() }

// Run follows the store until ctx ends. While the store cannot be read the last snapshot stays in force.
func (f *Follower) Run(ctx context.Context) error {
	tick := time.NewTicker(f.options.Every)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		err := f.Refresh(ctx)
		switch {
		case err != nil && ctx.Err() != nil:
			return nil
		case err != nil && !failing:
			f.options.Log.Warn("catalog and customers cannot be followed; the last known stay in force",
				"error", err)
		case err == nil && failing:
			f.options.Log.Info("catalog and customers are followed again", "change", f.Current().Change())
		}
		failing = err != nil
	}
}

// Refresh asks the store once and swaps the snapshot if something changed.
func (f *Follower) Refresh(ctx context.Context) error {
	f.polling.Lock()
	defer f.polling.Unlock()
	s := f.current.Load()
	settled, highest, err := f.store.Settled(ctx, s.Change())
	if err != nil {
		return err
	}
	if err := f.watchHole(ctx, settled, highest); err != nil {
		return err
	}
	versions, err := f.store.newVersions(ctx, s.Timeline())
	if err != nil {
		return err
	}
	if settled == s.Change() && versions == nil {
		return nil
	}
	contents := Contents{Versions: versions, Change: settled}
	if settled > s.Change() {
		filter := Filter{After: s.Change(), Change: settled, Deleted: true}
		if err := f.store.fill(ctx, filter, &contents); err != nil {
			return err
		}
	}
	next := s.With(contents)
	f.current.Store(next)
	f.publish(next)
	return nil
}

// watchHole abandons a number that stays unsettled while later ones are done: its writer died.
func (f *Follower) watchHole(ctx context.Context, settled, highest uint64) error {
	if highest <= settled {
		f.hole = 0
		return nil
	}
	if f.hole != settled+1 {
		f.hole, f.since = settled+1, time.Now()
		return nil
	}
	if time.Since(f.since) < f.options.AbandonAfter {
		return nil
	}
	f.options.Log.Warn("a change was begun and never finished; it is abandoned", "change", f.hole)
	return f.store.Abandon(ctx, f.hole, "tollgate", "not finished within "+f.options.AbandonAfter.String())
}

// WaitFor returns a snapshot that includes a change number and a catalog version.
func (f *Follower) WaitFor(ctx context.Context, change, seq uint64) (*Snapshot, error) {
	channel, stop := f.Subscribe()
	defer stop()
	for {
		if s := f.Current(); s.Change() >= change && s.Version().Seq >= seq {
			return s, nil
		}
		retry := time.NewTimer(f.options.Every)
		select {
		case <-channel:
		case <-retry.C:
			if err := f.Refresh(ctx); err != nil && ctx.Err() == nil {
				retry.Stop()
				return nil, err
			}
		case <-ctx.Done():
			retry.Stop()
			return nil, fmt.Errorf("wait for change %d and catalog %d: %w", change, seq, ctx.Err())
		}
		retry.Stop()
	}
}

// Subscribe answers a channel that gets every new snapshot, or only the newest where the receiver is slow,
// and a function that ends it.
func (f *Follower) Subscribe() (snapshots <-chan *Snapshot, stop func()) {
	channel := make(chan *Snapshot, 1)
	f.subscribers.Lock()
	defer f.subscribers.Unlock()
	f.channels[channel] = struct{}{}
	return channel, func() {
		f.subscribers.Lock()
		defer f.subscribers.Unlock()
		delete(f.channels, channel)
	}
}

func (f *Follower) publish(s *Snapshot) {
	f.subscribers.Lock()
	defer f.subscribers.Unlock()
	for channel := range f.channels {
		select {
		case <-channel: // an older one that nobody took
		default:
		}
		channel <- s // never blocks: only publish sends, and there is room for one
	}
}

// Snapshot reads the agreement as of a change number; 0 = all that is settled.
func (s *Store) Snapshot(ctx context.Context, change uint64) (*Snapshot, error) {
	if change == 0 {
		settled, _, err := s.Settled(ctx, 0)
		if err != nil {
			return nil, err
		}
		change = settled
	}
	versions, err := s.Versions(ctx)
	if err != nil {
		return nil, err
	}
	contents := Contents{Versions: versions, Change: change}
	if change > 0 {
		if err := s.fill(ctx, Filter{Change: change}, &contents); err != nil {
			return nil, err
		}
	}
	return NewSnapshot(contents), nil
}

// fill reads the rows of all kinds.
func (s *Store) fill(ctx context.Context, f Filter, c *Contents) error {
	return errors.Join(
		s.Customers(ctx, f, func(one Customer) error { c.Customers = append(c.Customers, one); return nil }),
		s.Subscriptions(ctx, f, func(one Subscription) error {
			c.Subscriptions = append(c.Subscriptions, one)
			return nil
		}),
		s.Credentials(ctx, f, func(one Credential) error {
			c.Credentials = append(c.Credentials, one)
			return nil
		}))
}

// newVersions is nil where known are all versions, else all of them.
func (s *Store) newVersions(ctx context.Context, known Timeline) (Timeline, error) {
	var count, last uint64
	row := s.db.Conn().QueryRow(ctx, `SELECT uniqExact(seq), max(seq) FROM catalog_versions`)
	if err := row.Scan(&count, &last); err != nil {
		return nil, fmt.Errorf("look for catalog versions: %w", err)
	}
	if count == uint64(len(known)) && last == known.Last().Seq {
		return nil, nil
	}
	return s.Versions(ctx)
}
