package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"

	"tollgate/cmd/tollgate/demo"
	"tollgate/collector"
	"tollgate/schemas"
	"tollgate/schemas/catalog"
	"tollgate/schemas/stream"
)

// demoCommand plays the story of package demo through the real path and compares the report with the truth.
type demoCommand struct {
	Exit   bool   `help:"End after the report; otherwise it keeps serving, with live traffic, until interrupted."`
	Events int    `default:"2000000" help:"Different events of the month, at least ${demo_least}."`
	Seed   uint64 `default:"1" help:"Another seed tells another month."`
	Folder string `default:"./tollgate-demo" type:"path" help:"Folder of the demo's data; what an earlier demo left there is removed."`
}

// demoLeast is the least month that can be played: in a smaller one some customers use nothing, and the
// incidents are most of the traffic, so that nothing of it is unusual.
const demoLeast = 20_000

// Validate is called by the command line.
func (c demoCommand) Validate() error {
	if c.Events < demoLeast {
		return fmt.Errorf("--events %d: want at least %d: in a smaller month the incidents of "+
			"the story are not unusual, and some customers have no invoice", c.Events, demoLeast)
	}
	return nil
}

// demoClock is the clock of the demo's roles: the story's while it is played, then the real one.
type demoClock struct {
	mu    sync.Mutex
	story time.Time // zero = the real clock
	moved chan struct{}
	until time.Time // what the closer waits for: it has nothing to do before
}

// Now is the time of the roles.
func (c *demoClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.story.IsZero() {
		return time.Now()
	}
	return c.story
}

// set moves the clock and wakes who waits for it; the zero time hands over to the real clock.
func (c *demoClock) set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.story = t
	close(c.moved)
	c.moved = make(chan struct{})
}

// wait returns when the clock has reached until; it is the closer's.
func (c *demoClock) wait(ctx context.Context, until time.Time) error {
	for {
		c.mu.Lock()
		story, moved := c.story, c.moved
		c.until = until
		c.mu.Unlock()
		var timer <-chan time.Time
		if story.IsZero() {
			story = time.Now()
			timer = time.After(until.Sub(story))
		}
		if !story.Before(until) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-moved:
		case <-timer:
		}
	}
}

// demoCron is when the demo's closer looks for due periods, on the demo's clock: each night at two.
const demoCron = "0 2 * * *"

// demonstration is one run of the demo.
type demonstration struct {
	command demoCommand
	a       *app
	p       *parts
	r       *roles
	clock   *demoClock
	story   *demo.Generator
	address string
	started time.Time
	played  time.Duration
}

// Run plays the month, reports, and serves on.
func (c demoCommand) Run(a *app) (err error) {
	if a.origins["data"] == "--data" {
		return errors.New("--data: the demo empties its folder first, so it has one of its own; name " +
			"another with --folder")
	}
	d := &demonstration{command: c, a: a, clock: &demoClock{moved: make(chan struct{})}, started: time.Now()}
	d.story = demo.New(demo.Options{Seed: c.Seed, Events: c.Events}, time.Now())
	d.clock.story = d.story.Month().From
	if err := d.prepareConfig(); err != nil {
		return err
	}
	fmt.Fprintf(a.err, "Starting Kafka, Redis and ClickHouse in %s …\n", c.Folder)
	d.p = &parts{command: a.command, log: a.log, progress: a.err, clock: d.clock.Now}
	if err := openParts(a.ctx, a.config, needAll, d.p); err != nil {
		return err
	}
	defer a.close(d.p)
	if err := d.start(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.r.stop()) }()
	if err := d.play(); err != nil {
		return errors.Join(err, d.r.failure())
	}
	ok, err := d.report()
	if err != nil {
		return errors.Join(err, d.r.failure())
	}
	if !ok {
		return errReported
	}
	if c.Exit {
		return nil
	}
	return d.serve()
}

// prepareConfig gives the demo a folder, and on an outside ClickHouse a database, of its own.
func (d *demonstration) prepareConfig() error {
	config := &d.a.config
	marker := filepath.Join(d.command.Folder, "made-by-tollgate-demo")
	if entries, err := os.ReadDir(d.command.Folder); err == nil && len(entries) > 0 {
		if _, err := os.Stat(marker); err != nil {
			return fmt.Errorf("folder %s is not empty and no demo made it; name another with --folder",
				d.command.Folder)
		}
		held, other, err := holdFolder(d.a.ctx, d.command.Folder, d.a.command,
			func(running) bool { return true })
		if err != nil {
			return err
		}
		if held == nil {
			return fmt.Errorf("a demo is running in %s already (process %d); end it, or name another "+
				"folder with --folder", d.command.Folder, other.PID)
		}
		if err := errors.Join(held.Close(), os.RemoveAll(d.command.Folder)); err != nil {
			return fmt.Errorf("remove the earlier demo: %w", err)
		}
	}
	if err := os.MkdirAll(d.command.Folder, 0o700); err != nil {
		return fmt.Errorf("make the demo's folder: %w", err)
	}
	if err := os.WriteFile(marker, nil, 0o600); err != nil {
		return fmt.Errorf("make the demo's folder: %w", err)
	}
	config.Data, config.Billing.Cron = d.command.Folder, demoCron
	config.Kafka.Brokers, config.Redis.Addresses = nil, nil
	config.Shards, config.shardsByDefault = defaultShards(*config), false
	config.Collector.Sources = nil
	if len(config.ClickHouse.Addresses) > 0 {
		config.ClickHouse.Database = "tollgate_demo_" + d.started.UTC().Format("20060102_150405")
	}
	return nil
}

// start runs all roles on the demo's clock and puts the agreement into force.
func (d *demonstration) start() (err error) {
	if err := d.agree(); err != nil {
		return err
	}
	if d.r, err = d.a.startRolesWith(d.p, rolesAll, d.clock.wait); err != nil {
		return err
	}
	listener, err := listen(d.a.config.HTTP.Listen)
	if err != nil { // somebody else's port is no reason not to show the demo
		if listener, err = listen("127.0.0.1:0"); err != nil {
			return err
		}
	}
	d.address, err = d.r.serve(listener)
	return err
}

// agree applies the catalog, the customers, their plans and their credentials.
func (d *demonstration) agree() error {
	store, err := openCatalogStore(d.a, d.p)
	if err != nil {
		return err
	}
	hasher, err := newHasher(d.a.config)
	if err != nil {
		return err
	}
	const by, reason = "demo", "the demo's own agreement"
	if _, _, err := store.Apply(d.a.ctx, demo.Catalog(),
		catalog.ApplyOptions{By: by, Reason: reason}); err != nil {
		return err
	}
	var customers []catalog.Customer
	var subscriptions []catalog.Subscription
	var credentials []catalog.Credential
	for _, c := range demo.Customers {
		zone, err := time.LoadLocation(c.Zone)
		if err != nil {
			return fmt.Errorf("zone of customer %s: %w", c.ID, err)
		}
		customers = append(customers, catalog.Customer{ID: c.ID, Name: c.Name, Zone: zone,
			TaxCategory: c.TaxCategory})
		subscriptions = append(subscriptions, catalog.Subscription{ID: c.ID + "-" + c.Plan, Customer: c.ID,
			Plan: c.Plan, From: d.story.Period(c).From})
		credential := catalog.Credential{ID: "key-" + c.ID, Customer: c.ID, Kind: schemas.CredentialHash,
			Match: hasher.Hash(c.Key())}
		if c.Kong {
			credential = catalog.Credential{ID: "kong-" + c.ID, Customer: c.ID, Kind: schemas.CredentialName,
				Match: c.ID, Source: demo.SourceKong}
		}
		credentials = append(credentials, credential)
	}
	if _, err := store.PutCustomers(d.a.ctx, customers, reason, by); err != nil {
		return err
	}
	if _, err := store.PutSubscriptions(d.a.ctx, subscriptions, reason, by); err != nil {
		return err
	}
	_, err = store.PutCredentials(d.a.ctx, credentials, reason, by)
	return err
}

// hoursAhead is how far, in hours of the story, gateways may be ahead of the collector: the clock of windows
// must not run away from the events.
const hoursAhead = 12

// play sends the month hour by hour, moves the clock, and waits for everything to arrive; then night comes,
// and the closer closes the month.
func (d *demonstration) play() error {
	month := d.story.Month()
	fmt.Fprintf(d.a.err, "Playing %s of an invented API product: 40 customers, two gateways, seed %d.\n",
		month.From.Format("January 2006"), d.command.Seed)
	bar := newCountBar(d.a.err, "hours", int(month.To.Sub(month.From)/time.Hour)+1)
	var marks [][]stream.Position
	for {
		hour, ok := d.story.Next()
		if !ok {
			break
		}
		positions, err := d.send(hour.Records)
		if err != nil {
			return err
		}
		marks = append(marks, positions)
		d.clock.set(hour.Start.Add(time.Hour))
		if len(marks) > hoursAhead {
			if err := d.awaitCollector(marks[len(marks)-1-hoursAhead]); err != nil {
				return err
			}
		}
		if err := bar.Add(1); err != nil {
			return err
		}
	}
	fmt.Fprintln(d.a.err, "Waiting for the last events, the last minutes of detection, and "+
		"the night's close …")
	if err := d.r.settle(d.a.ctx, d.a.err); err != nil {
		return err
	}
	if err := d.r.anomaly.Settle(d.a.ctx); err != nil {
		return err
	}
	// two o'clock of the night after, by which all zones' months are over
	d.clock.set(month.To.Add(26 * time.Hour))
	if err := d.awaitClose(); err != nil {
		return err
	}
	d.played = time.Since(d.started)
	return nil
}

// send writes an hour's records to one partition: played a thousand times faster than life, partitions would
// be read hours of the story apart, and detection would call most events late.
func (d *demonstration) send(records []demo.Record) ([]stream.Position, error) {
	batch := make([]stream.Record, len(records))
	for i, r := range records {
		headers := []stream.Header{{Key: stream.HeaderSource, Value: []byte(r.Source)}}
		batch[i] = stream.Record{Topic: stream.TopicAccessEvents, Partition: 0,
			Value: r.Value, Headers: headers}
		if r.Amend {
			if err := collector.GrantAmend(d.r.hasher, "support", &batch[i]); err != nil {
				return nil, err
			}
		}
	}
	positions, err := d.r.producer.Produce(d.a.ctx, batch)
	if err != nil {
		return nil, fmt.Errorf("send an hour of events: %w", err)
	}
	return positions, nil
}

// awaitCollector waits until the collector has committed what was sent at positions.
func (d *demonstration) awaitCollector(positions []stream.Position) error {
	need := map[int]int64{}
	for _, at := range positions {
		need[at.Partition] = max(need[at.Partition], at.Offset+1)
	}
	return d.await("the collector", func() (bool, error) {
		committed, err := d.p.kafka.Committed(d.a.ctx, groupCollector, stream.TopicAccessEvents)
		if err != nil {
			return false, err
		}
		for partition, offset := range need {
			if committed[partition] < offset {
				return false, nil
			}
		}
		return true, nil
	})
}

// awaitClose waits until the closer has done the night's work, and nothing is due any more.
func (d *demonstration) awaitClose() error {
	err := d.await("the close of the month", func() (bool, error) {
		d.clock.mu.Lock()
		defer d.clock.mu.Unlock()
		return d.clock.until.After(d.clock.story), nil
	})
	if err != nil {
		return err
	}
	due, err := d.r.billing.DuePeriods(d.a.ctx)
	if err != nil {
		return err
	}
	for _, period := range due {
		if !period.To.Add(d.a.config.Billing.Grace).After(d.clock.Now()) {
			return fmt.Errorf("the night's close left %s open; the log says why", period)
		}
	}
	return nil
}

// demoPatience bounds each wait of the demo: beyond it something is wrong, and it says what was awaited.
const demoPatience = 5 * time.Minute

func (d *demonstration) await(what string, done func() (bool, error)) error {
	deadline := time.Now().Add(demoPatience)
	for {
		ok, err := done()
		if err != nil || ok {
			return err
		}
		if err := d.r.failure(); err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waited %s for %s", demoPatience, what)
		}
		select {
		case <-d.a.ctx.Done():
			return d.a.ctx.Err()
		case <-time.After(20 * time.Millisecond): // a role's progress is only seen in its offsets
		}
	}
}

// newCountBar shows progress on a terminal; elsewhere it shows nothing.
func newCountBar(w io.Writer, what string, most int) *progressbar.ProgressBar {
	return progressbar.NewOptions(most, progressbar.OptionSetWriter(w),
		progressbar.OptionSetDescription(what), progressbar.OptionShowCount(),
		progressbar.OptionSetPredictTime(true), progressbar.OptionFullWidth(),
		progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish(),
		progressbar.OptionSetVisibility(isTerminal(w)))
}

// liveSource names the events of the demo's traffic on the real clock.
const liveSource = demo.SourceNative

// sendLive sends n calls of a customer that happen now.
func (d *demonstration) sendLive(customer demo.Customer, n int, tag string) error {
	var batch []stream.Record
	for from := 0; from < n; from += 100 {
		var b bytes.Buffer
		b.WriteByte('[')
		for i := from; i < min(from+100, n); i++ {
			if i > from {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, `{"source":%q,"id":"live-%s-%d","time":%q,"credential":{"key":%q},"method":"GET",`+
				`"host":"api.meridian.example","path":"/v1/search","status":200,"latency_ms":12,"bytes_in":150,`+
				`"bytes_out":2300,"address":"10.0.0.9","user_agent":"meridian-go/2.3.1"}`,
				liveSource, tag, i, time.Now().UTC().Format(time.RFC3339Nano), customer.Key())
		}
		b.WriteByte(']')
		batch = append(batch, stream.Record{Topic: stream.TopicAccessEvents, Partition: stream.AnyPartition,
			Value: b.Bytes(), Headers: []stream.Header{{Key: stream.HeaderSource,
				Value: []byte(liveSource)}}})
	}
	_, err := d.r.producer.Produce(d.a.ctx, batch)
	return err
}

// deniedCall uses a free customer's day up on the real clock, and asks the gate until it says no; it returns
// what was asked and what was answered.
func (d *demonstration) deniedCall() (question []byte, answer string, err error) {
	d.clock.set(time.Time{})
	var customer demo.Customer
	for _, c := range demo.Customers {
		if c.Plan == "free" && !c.Kong {
			customer = c
			break
		}
	}
	if err := d.sendLive(customer, 4_100, fmt.Sprint("burst-", time.Now().UnixNano())); err != nil {
		return nil, "", err
	}
	question, err = json.Marshal(map[string]any{"credential": map[string]string{"key": customer.Key()},
		"source": liveSource, "method": "GET", "host": "api.meridian.example", "path": "/v1/search"})
	if err != nil {
		return nil, "", err
	}
	err = d.await("the gate to deny a call over the limit", func() (bool, error) {
		response, err := http.Post("http://"+d.address+"/v1/check",
			"application/json", bytes.NewReader(question))
		if err != nil {
			return false, err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			return false, err
		}
		var decision struct {
			Allowed bool `json:"allowed"`
		}
		if err := json.Unmarshal(body, &decision); err != nil {
			return false, fmt.Errorf("the gate answered %s: %w", body, err)
		}
		answer = fmt.Sprintf("%s  RateLimit: %s  Retry-After: %s", bytes.TrimSpace(body),
			response.Header.Get("RateLimit"), response.Header.Get("Retry-After"))
		return !decision.Allowed, nil
	})
	return question, answer, err
}

// serve keeps live traffic going until it is interrupted.
func (d *demonstration) serve() error {
	fmt.Fprintf(d.a.out, "\nServing on http://%s with live traffic. Ctrl-C ends it.\n", d.address)
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for second := 0; ; second++ {
		select {
		case <-d.a.ctx.Done():
			return nil
		case <-ticker.C:
		}
		if err := d.r.failure(); err != nil {
			return err
		}
		customer := demo.Customers[second%len(demo.Customers)]
		if customer.Kong {
			customer = demo.Customers[0]
		}
		if err := d.sendLive(customer, 20, fmt.Sprint(time.Now().UnixNano())); err != nil &&
			d.a.ctx.Err() == nil {
			return err
		}
	}
}
