package collector

import (
	"io"
	"log/slog"
	"testing"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
	"tollgate/schemas/stream"
	"tollgate/schemas/wire"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// rawKey is a secret that no output may ever show.
const rawKey = "tg_live_notarealkeyatallnotreal"

var hashing = func() *catalog.Hasher {
	h, err := catalog.NewHasher(catalog.HashingKey{ID: "t1", Secret: []byte("a secret of the tests, 32 bytes.")})
	if err != nil {
		panic(err)
	}
	return h
}()

// noon is a quiet moment of the tests, in milliseconds.
const noon = 1_772_366_400_000 // 2026-03-01T12:00:00Z

const agreementYAML = `
issuer: {id: T, name: Test, currency: EUR, zone: UTC}
products:
  - product: search
    routes: [/v1/search, {route: "/v1/items/{id}", name: items, version: v1}]
meters:
  - {meter: calls, unit: call}
plans:
  - {plan: free, name: Free, limits: [1_000_000 calls per month]}
default_plan: free
`

// agreement is c1 with a key, bob until noon of the day before, and a blocked credential.
func agreement(t testing.TB) *catalog.Snapshot {
	t.Helper()
	c, problems := catalog.Parse(map[string][]byte{"test.yaml": []byte(agreementYAML)})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	return catalog.NewSnapshot(catalog.Contents{
		Versions:  []catalog.Version{{Seq: 1, Catalog: c}},
		Customers: []catalog.Customer{{ID: "c1"}, {ID: "c2"}},
		Credentials: []catalog.Credential{
			{ID: "k1", Kind: schemas.CredentialHash, Match: hashing.Hash(rawKey), Customer: "c1", Subject: "team-a"},
			{ID: "k2", Kind: schemas.CredentialName, Match: "bob", Customer: "c2", To: time.UnixMilli(noon - 86_400_000)},
			{ID: "k3", Kind: schemas.CredentialName, Match: "mallory", Customer: "c1", Blocked: true},
			{ID: "k4", Kind: schemas.CredentialName, Source: "gw-b", Match: "only-b", Customer: "c2"},
		},
		Change: 7,
	})
}

func newTestWorker(t testing.TB) *worker {
	t.Helper()
	m, err := newMetrics(nil)
	if err != nil {
		t.Fatal(err)
	}
	return newWorker(hashing, m)
}

// process runs records of one partition through a worker, as a reader does.
func process(t testing.TB, topic Topic, records ...stream.Record) *chunk {
	t.Helper()
	w, k := newTestWorker(t), newChunk(4)
	k.source = schemas.SourceRange{Topic: topic.Name, Generation: 2, Partition: 3, From: 10, To: 10 + int64(len(records))}
	w.begin(agreement(t), k, 4)
	for i := range records {
		r := records[i]
		r.Partition, r.Offset = 3, 10+int64(i)
		if r.Time.IsZero() {
			r.Time = time.UnixMilli(noon)
		}
		w.record(&topic, [16]byte{0xab}, 2, &r)
	}
	w.end()
	return k
}

// published and rejected read a chunk back, as its readers will.
func published(t testing.TB, k *chunk) (live, history []*wire.UsageEvent) {
	t.Helper()
	for mode := range k.usage {
		for shard := range k.usage[mode] {
			var b wire.UsageBatch
			if err := b.UnmarshalVT(k.usage[mode][shard].members); err != nil {
				t.Fatal(err)
			}
			if len(b.Events) != k.usage[mode][shard].count {
				t.Errorf("shard %d holds %d events, counted %d", shard, len(b.Events), k.usage[mode][shard].count)
			}
			for _, e := range b.Events {
				if schemas.Shard(e.Source, e.Id, 4) != shard {
					t.Errorf("event %s is in shard %d", e.Id, shard)
				}
			}
			if schemas.Mode(mode) == schemas.History {
				history = append(history, b.Events...)
			} else {
				live = append(live, b.Events...)
			}
		}
	}
	return live, history
}

func rejected(t testing.TB, k *chunk) []*wire.RejectedEvent {
	t.Helper()
	var b wire.RejectedBatch
	if err := b.UnmarshalVT(k.rejected.members); err != nil {
		t.Fatal(err)
	}
	if len(b.Events) != k.rejected.count {
		t.Errorf("%d rejected events, counted %d", len(b.Events), k.rejected.count)
	}
	return b.Events
}

func header(key, value string) stream.Header { return stream.Header{Key: key, Value: []byte(value)} }
