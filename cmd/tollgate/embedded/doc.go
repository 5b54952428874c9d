// Package embedded owns the parts that a machine with nothing installed lacks: a Kafka broker, a Redis cache
// and a ClickHouse engine, each speaking its real protocol on loopback, each keeping its data in a folder. It
// does not own what is stored in them, and nothing outside may know the difference: it hands out addresses.
// cmd/tollgate starts them for `all`, `demo` and the tools; the tests of every package start them through
// embeddedtest.
package embedded
