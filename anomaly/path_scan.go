package anomaly

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"tollgate/schemas"
	"tollgate/schemas/wire"
)

// ScanSettings decide when calls to what is not there are a search for weak spots.
type ScanSettings struct {
	// Off switches the detector off. Setting `off`.
	Off bool
	// Fast is how many different missing paths of one address within 20 minutes are a scan. Setting `fast`,
	// default 15. Not less: a page whose parts are missing, a client on an old version. Not more: careful
	// scanners ask little.
	Fast float64
	// Slow is the same within 2 days. Setting `slow`, default 60.
	// Not less: crawlers come back for what is gone. Not more: a scan of one path an hour would pass.
	Slow float64
	// Share is the least share of missing paths among the address's calls in the same window. Setting
	// `share`, default 0.3. Not less: a crawler meets a few dead links among many pages. Not more: scanners
	// fetch what they find.
	Share float64
	// Many is how many times Fast is a scan whatever the share: who tries parameters of pages that are there
	// as well hides among them. Setting `many`, default 3.
	Many float64
	// Crawlers are words of the User-Agent of those who say that they crawl; Slow counts 10 times as much for
	// them, Fast does not. Setting `crawlers`, default bot, crawl, spider, slurp. They ask for what was
	// linked anywhere and any time ago, a few paths an hour; a scanner that claims to be one is slowed down
	// to their pace.
	Crawlers []string
	// Ignore are endings of paths whose absence says nothing. Setting `ignore`, default pictures, fonts,
	// styles, maps and the files that browsers and crawlers ask for by themselves.
	Ignore []string
}

func defaultScan() ScanSettings {
	return ScanSettings{Fast: 15, Slow: 60, Share: 0.3, Many: 3,
		Crawlers: []string{"bot", "crawl", "spider", "slurp"}, Ignore: []string{".png", ".jpg", ".jpeg",
			".gif", ".svg", ".webp", ".ico", ".css", ".woff", ".woff2", ".ttf", ".eot", ".map", ".js",
			"/robots.txt", "/ads.txt", "/sitemap.xml", "/favicon.ico", "/apple-app-site-association",
			"/assetlinks.json"}}
}

func (s *ScanSettings) table() map[string]setting {
	return map[string]setting{"off": flag(&s.Off), "fast": number(&s.Fast, 2), "slow": number(&s.Slow, 2),
		"share": share(&s.Share), "many": number(&s.Many, 1), "crawlers": words(&s.Crawlers),
		"ignore": words(&s.Ignore)}
}

// missing tells whether e asked for what is not there, and what that is. A route with parameters counts once,
// however many ids are not found under it: that is a client with old ids. 401 and 429 say nothing about the
// path.
func (s *ScanSettings) missing(e *wire.UsageEvent) (what string, ok bool) {
	switch status := e.Status; {
	case status < 400, status > 499, status == 401, status == 408, status == 429, status == 499:
		return "", false
	}
	if e.Product != "" && e.Route != "" && !strings.HasSuffix(e.Route, "/**") {
		return e.Route, true
	}
	for _, ending := range s.Ignore {
		if n := len(e.Path) - len(ending); n >= 0 && strings.EqualFold(e.Path[n:], ending) {
			return "", false
		}
	}
	return e.Path, true
}

// crawls tells whether e says that it is a crawler.
func (s *ScanSettings) crawls(e *wire.UsageEvent) bool {
	agent := strings.ToLower(e.UserAgent)
	return slices.ContainsFunc(s.Crawlers, func(word string) bool { return strings.Contains(agent, word) })
}

// crawlerFactor is how much more a crawler may miss slowly.
const crawlerFactor = 10

// scan is what is remembered of an address that asked for what is not there. About 200 bytes, up to 2 KB for
// a scanner.
type scan struct{ fast, slow pair }

func newScan() *scan { return &scan{fast: pair{minutes: 10}, slow: pair{minutes: 1440}} }

func (s *scan) add(minute int32, t *tally) {
	s.fast.add(minute, &t.paths, counts{n: t.missing, calls: t.calls, of: t.crawling})
	s.slow.add(minute, &t.paths, counts{n: t.missing, calls: t.calls, of: t.crawling})
}

// stale tells that nothing was missing for two days.
func (s *scan) stale() bool { return s.slow.total().n == 0 }

// judge tells whether e is scanning.
func (s *ScanSettings) judge(e *entity, t *tally) (finding, bool) {
	if s.Off || e.scan == nil || t.missing == 0 {
		return finding{}, false
	}
	slow := s.Slow
	if all := e.scan.slow.total(); 2*all.of > all.n {
		slow *= crawlerFactor
	}
	windows := []struct {
		p           *pair
		limit, many float64
		hold        int32
		name, words string
	}{{&e.scan.fast, s.Fast, s.Many * s.Fast, 0, "paths_20m", "20 min"},
		{&e.scan.slow, slow, math.Inf(1), 12 * 60, "paths_2d", "2 days"}}
	best, excess, paths := -1, 0.0, 0.0
	for i, w := range windows {
		n := float64(w.p.distinct())
		all := w.p.total()
		shown := float64(all.n) >= s.Share*float64(all.calls) || n >= w.many
		if x := n / w.limit; x >= 1 && x > excess && shown {
			best, excess, paths = i, x, n
		}
	}
	if best < 0 {
		return finding{}, false
	}
	w := windows[best]
	all := w.p.total()
	f := e.finding(schemas.DetectorPathScan, t)
	f.value, f.excess, f.hold, f.severity = paths, excess, w.hold, severityOf(excess, 2, 10)
	f.sentence = fmt.Sprintf("%s asked for %s different paths that are not there within %s, "+
		"%s of its %s calls", e.who(), thousands(paths), w.words, thousands(float64(all.n)),
		thousands(float64(all.calls)))
	f.evidence = []schemas.Evidence{evidence(w.name, paths, 0, "path"),
		evidence("missing", float64(all.n), 0, "call"), evidence("calls", float64(all.calls), 0, "call"),
		evidence("threshold", w.limit, 0, "path")}
	return f, true
}
