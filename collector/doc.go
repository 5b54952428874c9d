// Package collector owns the way from what gateways write to what is counted: it decodes access events,
// validates and attributes them, counts their quota and publishes them to usage-events, or to rejected-events
// with the reason. It owns no formats (collector/decode), no limits (quota) and no usage (aggregator).
// cmd/tollgate runs it over the topics of the gateways and mounts its HTTP ingest; tools use it to replay
// what was rejected.
//
// Nothing is answered or committed before Kafka has acknowledged with acks=all, and every record it writes
// names the source ranges that it answers for, so that read = published + rejected can be proved (law 5).
package collector
