package main

// writesEvents is the line of the sink that two rules are about.
const writesEvents = "" +
	"	if err := k.again(ctx, func() error { return k.writeEvents(ctx, f) }); err != nil {\n"

// publishes is the line of the collector that a rule is about.
const publishes = "	published := f == nil || c.publish(ctx, f)\n"

// rules are the safety rules of the path, each with the smallest change that removes it.
var rules = []rule{
	{"the fence's previous",
		[]edit{{"quota/redis.go",
			"apply = apply and now[f] == ARGV[a - 3 * (fences - f) - 2]", "apply = true"}},
		"./quota", "CountOnce"},
	{"collector: commit after publish",
		[]edit{{"collector/collector.go", publishes,
			"	if f != nil {\n" +
				"		for _, k := range f.chunks {\n" +
				"			c.behind[k.from] = k.source.To\n		}\n" +
				"		c.commit(ctx)\n	}\n" + publishes}},
		"./collector", "Run"},
	{"collector: commit after counting",
		[]edit{{"collector/collector.go",
			"	if due {\n		c.commit(ctx)\n	}\n", "	c.commit(ctx)\n"}},
		"./collector", "Run"},
	{"aggregator: commit after write",
		[]edit{{"aggregator/progress.go", "return min(p.stored, p.marked)", "return p.appended"},
			{"aggregator/sink.go", writesEvents,
				"	k.commit(ctx, f)\n" + writesEvents}},
		"./aggregator", "RandomHistories|Progress"},
	{"marks after events",
		[]edit{{"aggregator/sink.go", writesEvents,
			"	if err := k.again(ctx, func() error { return k.writeMarks(ctx, f) }); err != nil {\n" +
				"		return err\n	}\n" + writesEvents}},
		"./aggregator", "OrderOfWrites"},
	{"covers before events",
		[]edit{{"aggregator/recompute.go", "	lost, err := r.lost(ctx, j, before, found, revision)\n",
			"	r.with(func(l *ledger) {\n		for shard, s := range l.shards {\n" +
				"			bounds[shard] = s.bound\n		}\n	})\n" +
				"	lost, err := r.lost(ctx, j, before, found, revision)\n"}},
		"./aggregator", "CoversAreRead"},
	{"a revision of unknown outcome gets no head",
		[]edit{{"aggregator/recompute.go",
			"		return r.combine(ctx, j, revision, pick, before)\n	})\n" +
				"	if err != nil {\n		return err\n	}\n",
			"		return r.combine(ctx, j, revision, pick, before)\n	})\n	_ = err\n"}},
		"./aggregator", "UnknownOutcome"},
	{"the version of the head",
		[]edit{{"aggregator/store_read.go",
			"argMax((generation, covers, catalog, revision, keys, rows, parts), (generation,\n" +
				"        covers, catalog, revision)) AS v",
			"argMax((generation, covers, catalog, revision, keys, rows, parts), revision) AS v"}},
		"./aggregator", "ZombieHeadLoses"},
	{"slots of an hour, of the minutes they were combined from",
		[]edit{{"aggregator/open.go", "known.parts == listed[s]", "listed[s] != 0"}},
		"./aggregator", "SlotsOfAnHour|ExploreHours"},
	{"slots of an hour that are not current",
		[]edit{{"aggregator/reader.go", "(hour.Slots[slot] == 0 || !current(*hour, h.Covers, h.Catalog))",
			"hour.Slots[slot] == 0"}},
		"./aggregator", "OpenHours"},
	{"what was remembered of other parts",
		[]edit{{"aggregator/past.go", "return last.found, ok && last.parts == parts",
			"return last.found, ok"}},
		"./aggregator", "PastMonthsAreFollowed"},
	{"days that are not in force",
		[]edit{{"aggregator/store_days.go", "err != nil || !ok {", "err != nil || !ok && len(named) == 0 {"}},
		"./aggregator", "DaysAreReadAsAll"},
	{"what an owner had not heard of",
		[]edit{{"aggregator/recompute.go", "o := outdated{[]int{shard}, 0, from.catalog, from.at}",
			"o := outdated{nil, 0, from.catalog, from.at}"}},
		"./aggregator", "AnOwnerThatKnewLess"},
	{"what was planned before a shard came back",
		[]edit{{"aggregator/job.go", "return s != nil && s == j.owned[shard]", "return s != nil"}},
		"./aggregator", "AShardThatCameBack"},
	{"the rank of a void",
		[]edit{{"aggregator/store_usage.go", `const voidRank = "bitShiftLeft(toUInt128(65535), 112)"`,
			`const voidRank = "bitShiftLeft(toUInt128(1), 127)"`}},
		"./aggregator", "RankOfAVoid"},
	{"change in the rank",
		[]edit{{"aggregator/store_events.go", "e.Change&(1<<48-1)", "0*e.Change"}},
		"./aggregator", "RandomHistories"},
	{"the fixed P",
		[]edit{{"schemas/stream/admin.go", "if have.Partitions != s.Partitions {", "if false {"}},
		"./schemas/stream", "OurTopics|Compacted"},
	{"the gap check",
		[]edit{{"schemas/stream/fetcher.go",
			"	if f.accepted == nil || g.Got < g.Want && !g.Recreated {\n		return g\n	}\n",
			"	if g.Want >= 0 {\n		return nil\n	}\n"}},
		"./schemas/stream", "Gap|Deleted|LostItsEnd"},
	{"the epochs of leaders",
		[]edit{{"schemas/stream/fetcher.go", "end < 0 || end >= f.next {", "end < 1<<40 {"}},
		"./schemas/stream", "GrewAgain"},
	{"acks=all",
		[]edit{{"schemas/stream/producer.go", "acksAll = -1", "acksAll = 1"}},
		"./schemas/stream", "Produce"},
	{"the offset chain of a close",
		[]edit{{"cmd/tollgate/readiness.go", "	stageSources = iota\n	stageShards\n	stageBuckets\n",
			"	stageBuckets = iota\n	stageShards\n	stageSources\n"}},
		"./cmd/tollgate", "ReadinessFollows"},
	{"cumulative rounding",
		[]edit{{"billing/rate.go", "	return amount.Sub(before.Amount.Round(places)), nil",
			"	return after.Amount.Round(places + 2)." +
				"Sub(before.Amount.Round(places + 2)).Round(places), nil"}},
		"./billing", "PartsSum"},
}
