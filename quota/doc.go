// Package quota owns limits: the calendar windows they hold in, the counters that events fill in Redis, the
// answer to "may I?" at the gate, and the notices of limits reached and restored. It owns no usage and no
// money: a counter is never billed (law 8), and ClickHouse corrects it, never the other way round. The
// collector counts through a Tally, gateways ask over HTTP, cmd/tollgate connects both.
//
// # Keys in Redis
//
// All keys of a customer share one of 256 hash tags, {b0}…{b255}, so that a script touches one slot of a
// cluster:
//
//	PREFIX:{bN}:fence     hash: "topic/partition" → "generation:offset", how far the partition is counted
//	PREFIX:{bN}:notices   sorted set: quota events not yet published, by the time (ms) they are due
//	PREFIX:{bN}:c:SERIES:WINDOW:LENGTH:CUSTOMER:CREDENTIAL   hash, one counter:
//	    w whole units, p millionths of millionths beside them (0 ≤ p < 10^12),
//	    r how often it was reconciled, n:LIMIT:UNITS set once that limit was reached
//	PREFIX:{b0}:round     JSON: how far the last reconciliation of all counters came, see Round
//	PREFIX:{b0}:asked     the name of a request for the next one
//
// SERIES names what is counted (meter, condition, window, scope), not the limit: raising a limit or changing
// the plan goes on from what was used. A counter expires some time after its window; fences stay.
//
// # Exactness
//
// A fence moves in the same script as the counters, so what is counted is counted once, whatever crashes or
// is read again. One script run moves the fences of several source partitions in a bucket, all or none, so
// that what a customer's events of all of them add up to is one command. While Redis is away, what could not
// be counted waits in memory, within bounds, and is counted when Redis is back. What a crash takes from
// there, and what Redis itself loses, is put right by Reconcile. Counters count first deliveries of revision
// 0, repeats included; Reconcile takes repeats, voids and amendments into account.
package quota
