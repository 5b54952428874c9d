// Package anomaly owns baselines, detectors and alerts: it reads usage events, learns what is usual, and
// tells a person in one sentence what is not. It owns no usage and no money, and blocks nobody: people and
// the catalog do. cmd/tollgate runs one Service of it; the console and `tollgate alerts` call List.
//
// Detectors judge closed minutes of event time. All counts of a minute are sums and sets, which do not depend
// on the order of arrival, so the same events give the same alerts whether they are read live, after a
// restart, or by a clock that runs faster. No detector sees a clock.
package anomaly
