// Package stream owns everything Kafka: it reads partitions in order with ownership, detects gaps, commits,
// produces, and keeps the chain of claims; it also says which topics we have. It owns no meaning: what a
// record says is for its reader. Every role that moves events calls it, and cmd/tollgate opens its Client
// once.
//
// A partition is read through fetch requests of our own rather than through kafka-go's Reader, because the
// law of positions needs what that hides: where each record batch ends, which are markers, and that nothing
// is missing between two of them.
package stream
