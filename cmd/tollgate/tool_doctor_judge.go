package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"tollgate/collector"
	"tollgate/collector/decode"
	"tollgate/quota"
	"tollgate/schemas/catalog"
)

// This file judges what doctor found: facts in, findings out, without a server, a clock or the environment.
// The judgments of Kafka are in tool_doctor_topics.go.

// settingsFacts are what is known before any server is asked.
type settingsFacts struct {
	brokers     bool // Kafka is outside the data folder: no role starts without hash.key
	tables      bool // ClickHouse is, which keeps what was hashed
	keySet      bool // hash.key
	keyFileOpen bool // others than the owner may read the key file of the data folder
	data        string
	dataUsed    bool
	dataErr     error // why the data folder cannot be written
	sources     []collector.Topic
}

func judgeSettings(f settingsFacts) (findings []finding) {
	switch {
	case f.keySet:
		findings = append(findings, finding{"hash key", statusOK, "hash.key is set", ""})
	case f.brokers:
		findings = append(findings, finding{"hash key", statusFail,
			"hash.key is not set, and Kafka is outside the data folder: processes would hash " +
				"credentials under different keys", "set TOLLGATE_HASH_KEY to the same 32 random bytes in " +
				"hex for every process: openssl rand -hex 32"})
	case f.tables:
		findings = append(findings, finding{"hash key", statusWarn,
			"hash.key is not set, and ClickHouse is outside the data folder: who loses the " +
				"folder loses every credential in the tables", "set TOLLGATE_HASH_KEY to the content of " +
				f.data + "/hash.key, and keep it safe"})
	case f.keyFileOpen:
		findings = append(findings, finding{"hash key", statusWarn, "others than the owner may read " +
			f.data + "/hash.key", "chmod 600 " + f.data + "/hash.key"})
	default:
		findings = append(findings, finding{"hash key", statusOK, "kept in the data folder", ""})
	}
	switch {
	case !f.dataUsed:
		findings = append(findings, finding{"data folder", statusOK, "not used: every server is outside", ""})
	case f.dataErr != nil:
		findings = append(findings, finding{"data folder", statusFail, f.dataErr.Error(),
			"make it writable for this user, or name another with --data or TOLLGATE_DATA"})
	default:
		findings = append(findings, finding{"data folder", statusOK, f.data + " can be written", ""})
	}
	for _, t := range f.sources {
		findings = append(findings, judgeSource(t))
	}
	return findings
}

// judgeSource declares what a configured source can promise by its format (law 1).
func judgeSource(t collector.Topic) finding {
	check := "source " + t.Name
	if t.Format == "" {
		return finding{check, statusOK, "its format is found from each record; whether repeats are " +
			"known depends on it", "to know: tollgate formats test SAMPLE; then name the format in " +
			"collector.sources"}
	}
	format, known := decode.Lookup(t.Format)
	switch {
	case !known:
		return finding{check, statusFail,
			fmt.Sprintf("format %q is unknown: every record is rejected", t.Format),
			"set the format of topic " + t.Name + " in collector.sources to one of: tollgate formats list"}
	case !format.HasID && !format.HasTime:
		return finding{check, statusWarn, "at-least-once: format " + format.Name +
			" has no id, and times are those of the records", advice(format, decode.NeedID) + "; " +
			advice(format, decode.NeedTime)}
	case !format.HasID:
		return finding{check, statusWarn, "at-least-once: format " + format.Name +
			" has no id, so what the gateway sends twice is billed twice", advice(format, decode.NeedID)}
	case !format.HasTime:
		return finding{check, statusWarn, "format " + format.Name +
			" has no time, so late events fall into the wrong minute", advice(format, decode.NeedTime)}
	}
	return finding{check, statusOK, "exactly-once where its events carry an id, as format " + format.Name +
		" can", ""}
}

// advice is the setting of a gateway that adds what is needed.
func advice(format decode.Format, need decode.Need) string {
	for _, a := range format.Advice {
		if a.Need == need {
			return a.Setting
		}
	}
	return "tollgate formats test SAMPLE names the gateway's setting"
}

// The bounds of clock skew. From a second on, views show usage later or earlier than they promise (a reader
// trusts heads older than one second); a minute makes limits count in the wrong window.
const (
	skewWarn = time.Second
	skewFail = time.Minute
)

func judgeClock(server string, ahead time.Duration) finding {
	check, found := server+" clock", "that of this machine"
	if shown := ahead.Round(time.Millisecond); shown > 0 {
		found = fmt.Sprintf("%s ahead of this machine's", shown)
	} else if shown < 0 {
		found = fmt.Sprintf("%s behind this machine's", -shown)
	}
	mend := "synchronise the clocks of both machines: timedatectl set-ntp true (or chronyd)"
	switch {
	case ahead.Abs() >= skewFail:
		return finding{check, statusFail, found, mend}
	case ahead.Abs() > skewWarn:
		return finding{check, statusWarn, found, mend}
	}
	return finding{check, statusOK, found, ""}
}

// judgeRedis looks at one server. The embedded one lives with the process and has nothing to set.
func judgeRedis(f quota.ServerFacts, embedded bool) []finding {
	name := strings.TrimSpace("redis " + f.Addr)
	version := "version " + f.Version
	if f.Version == "" {
		version = "it does not say its version"
	}
	findings := []finding{{name + " connection", statusOK, version, ""}, judgeClock(name, f.Ahead)}
	if embedded {
		return append(findings, finding{name + " settings", statusOK, "embedded: counters live in the data " +
			"folder's process", ""})
	}
	switch f.Eviction {
	case "noeviction":
		findings = append(findings, finding{name + " eviction", statusOK, "maxmemory-policy noeviction", ""})
	case "":
		findings = append(findings, finding{name + " eviction", statusWarn,
			"it does not say its maxmemory-policy", "make sure, in your provider's settings, that " +
				"maxmemory-policy is noeviction"})
	default:
		findings = append(findings, finding{name + " eviction", statusFail,
			"maxmemory-policy " + f.Eviction + " drops counters in silence: limits would let everybody pass",
			"redis-cli CONFIG SET maxmemory-policy noeviction, and the same in redis.conf"})
	}
	switch f.AppendOnly {
	case "yes":
		findings = append(findings, finding{name + " persistence", statusOK, "appendonly yes", ""})
	case "":
		findings = append(findings, finding{name + " persistence", statusWarn,
			"it does not say whether it persists", "make sure, in your provider's settings, that " +
				"the append-only file is on"})
	default:
		findings = append(findings, finding{name + " persistence", statusWarn,
			"appendonly no: after a restart of Redis limits begin at zero until they are reconciled",
			"redis-cli CONFIG SET appendonly yes, and the same in redis.conf"})
	}
	return findings
}

// oldestClickHouse is the oldest version that is not warned of: the oldest with long-term support today.
const oldestClickHouse = "25.3"

func judgeServer(f serverFacts) []finding {
	findings := []finding{{"clickhouse connection", statusOK, "version " + f.version, ""}}
	if olderThan(f.version, oldestClickHouse) {
		findings[0] = finding{"clickhouse connection", statusWarn, "version " + f.version +
			" is older than " + oldestClickHouse + ", which nobody supports any more",
			"upgrade ClickHouse to a version with long-term support"}
	}
	findings = append(findings, judgeClock("clickhouse", f.ahead))
	if f.asyncInsert != "0" {
		findings = append(findings, finding{"clickhouse inserts", statusFail,
			fmt.Sprintf("async_insert is %q although we ask for 0: inserts would be acknowledged "+
				"before they are on disk", f.asyncInsert), "let the profile of clickhouse.user change " +
				"async_insert: remove its constraint"})
	} else {
		findings = append(findings, finding{"clickhouse inserts", statusOK,
			"async_insert 0: acknowledged once on disk", ""})
	}
	return findings
}

// olderThan compares versions such as 25.3.1.1 by their first two numbers; one that is not understood is not
// older.
func olderThan(version, than string) bool {
	var a, b [2]int
	if n, _ := fmt.Sscanf(version, "%d.%d", &a[0], &a[1]); n != 2 {
		return false
	}
	if n, _ := fmt.Sscanf(than, "%d.%d", &b[0], &b[1]); n != 2 {
		panic("BUG: version " + than)
	}
	return slices.Compare(a[:], b[:]) < 0
}

// The bounds of free disk, in percent. Merges need room for a copy of what they merge; a full disk stops
// inserts, and with them the commits of the aggregator.
const (
	freeWarn = 15
	freeFail = 5
)

// judgeDisks tells of the disk with the least room.
func judgeDisks(disks []diskFacts) finding {
	const check = "clickhouse disk"
	var least *diskFacts
	share := func(d *diskFacts) uint64 { return d.free / (d.total/100 + 1) }
	for i := range disks {
		if disks[i].total > 0 && (least == nil || share(&disks[i]) < share(least)) {
			least = &disks[i]
		}
	}
	if least == nil {
		return finding{check, statusOK, "its storage says no size", ""}
	}
	found := fmt.Sprintf("%d%% of disk %s is free, %s of %s", share(least), least.name,
		bytesText(least.free), bytesText(least.total))
	mend := "make room: a larger disk, or drop months that you no longer need"
	switch {
	case share(least) < freeFail:
		return finding{check, statusFail, found, mend}
	case share(least) < freeWarn:
		return finding{check, statusWarn, found, mend}
	}
	return finding{check, statusOK, found, ""}
}

func bytesText(n uint64) string {
	if n >= 1<<30 {
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}

const checkTables = "clickhouse tables"

// durableTables commit offsets or documents: what was acknowledged must survive a power cut.
var durableTables = []string{"accepted_gaps", "alert_deliveries", "alerts", "anomaly_state", "audit_log",
	"catalog_versions", "changes", "conflicts", "credentials", "credit_note_lines", "credit_notes",
	"customers", "cuts", "events", "generations", "heads",
	"invoice_events", "invoice_lines", "invoice_runs", "invoices", "marks", "migrations", "notice_deliveries",
	"reattributions", "receipts", "rejected_events", "replay_runs", "replays", "settled", "subscriptions",
	"usage_day", "usage_hour", "usage_minute", "vanished"}

// durableSettings are what a durable table is made with.
var durableSettings = []string{"fsync_after_insert", "fsync_part_directory", "min_rows_to_fsync_after_merge"}

// tooManyParts is where ClickHouse begins to delay inserts (parts_to_delay_insert, 1,000 by default), of
// which half is a reason to look.
const tooManyParts = 500

func judgeTables(tables map[string]tableFacts) (findings []finding) {
	if len(tables) == 0 {
		return []finding{{checkTables, statusWarn, "there are none yet",
			"start a role, or any tool that writes: tollgate all"}}
	}
	var missing, weak, crowded []string
	for _, name := range durableTables {
		t, ok := tables[name]
		if !ok {
			missing = append(missing, name)
			continue
		}
		for _, setting := range durableSettings {
			if !strings.Contains(t.engine, setting+" = 1") {
				weak = append(weak, name)
				break
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(tables)) {
		if tables[name].parts > tooManyParts {
			crowded = append(crowded, fmt.Sprintf("%s (%d)", name, tables[name].parts))
		}
	}
	if len(missing) > 0 {
		findings = append(findings, finding{checkTables, statusFail, "missing: " +
			strings.Join(missing, ", "), "start a role of this version once: it brings tables up to date; " +
			"tables that had been there: restore the backup"})
	}
	if len(weak) > 0 {
		findings = append(findings, finding{"clickhouse durability", statusFail,
			"acknowledged rows may be lost in a power cut: " + strings.Join(weak, ", "),
			"for each: ALTER TABLE " + weak[0] + " MODIFY SETTING " +
				strings.Join(durableSettings, " = 1, ") + " = 1"})
	}
	if len(crowded) > 0 {
		findings = append(findings, finding{"clickhouse parts", statusWarn,
			"many parts in one ClickHouse partition, inserts will soon be delayed: " +
				strings.Join(crowded, ", "), "wait until merges catch up (SELECT * FROM " +
				"system.merges); slow down what imports history"})
	}
	if len(findings) == 0 {
		findings = append(findings, finding{checkTables, statusOK,
			fmt.Sprintf("%d tables, fsync on insert for %d of them", len(tables), len(durableTables)), ""})
	}
	return findings
}

// judgeSeen declares the sources whose stored events have no ids of their own (law 1).
func judgeSeen(seen []seenSource, topics []collector.Topic) (findings []finding) {
	exact := 0
	for _, s := range seen {
		if s.topics+s.files == 0 {
			exact++
			continue
		}
		found := fmt.Sprintf("at-least-once: %d of %d stored events have for id where they were read",
			s.topics+s.files, s.events)
		mend := "give every request an id at the gateway; " + "tollgate formats test SAMPLE names its setting"
		for _, t := range topics {
			if format, known := decode.Lookup(t.Format); known &&
				(slices.Contains(t.Sources, s.name) || t.Name == s.name) {
				mend = advice(format, decode.NeedID)
			}
		}
		if s.topics == 0 {
			found += "; importing the same file again counts nothing twice, but a line in two " +
				"files counts twice"
		} else {
			found += "; what the gateway sends twice is billed twice"
		}
		findings = append(findings, finding{"events of " + s.name, statusWarn, found, mend})
	}
	switch {
	case len(seen) == 0:
		findings = append(findings, finding{"events with ids", statusOK, "there are no events yet", ""})
	case exact > 0:
		findings = append(findings, finding{"events with ids", statusOK,
			fmt.Sprintf("repeats count once, of sources: %d",
				exact), ""})
	}
	return findings
}

// judgeCatalog looks at the version in force; problems are of its webhooks, by number.
func judgeCatalog(v catalog.Version, problems []error) (findings []finding) {
	if v.Seq == 0 {
		findings = append(findings, finding{"catalog", statusWarn,
			"none was applied: the built-in one is in force", "tollgate catalog apply FILE; the folder " +
				"examples/catalog is one to begin with"})
	} else {
		findings = append(findings, finding{"catalog", statusOK, fmt.Sprintf("version %d (%.12s), applied %s",
			v.Seq, v.Hash, instant(v.Applied)), ""})
	}
	if v.Catalog.DefaultPlan == "" {
		findings = append(findings, finding{"default plan", statusWarn,
			"none: usage of customers without a subscription is never billed",
			"set default_plan in the catalog, or subscribe every customer: tollgate customer list " +
				"shows who has none"})
	} else {
		findings = append(findings, finding{"default plan", statusOK, v.Catalog.DefaultPlan, ""})
	}
	for i, hook := range v.Catalog.Webhooks {
		check := "webhook " + hook.SecretEnv // its address may hold a token
		if problems[i] != nil {
			findings = append(findings, finding{check, statusFail, problems[i].Error(),
				"set " + hook.SecretEnv + " for the anomaly role: whsec_ and 24 to 64 " +
					"random bytes in base64"})
			continue
		}
		findings = append(findings, finding{check, statusOK, "its secret is set", ""})
	}
	return findings
}
