// Package wire is the protobuf form of what travels between our own roles, generated from usage_event.proto,
// and a reader of usage events that makes no garbage. It owns nothing but bytes: schemas owns the nouns. The
// collector writes it; aggregator and anomaly read it.
package wire
