// Package notify owns how messages leave for people and their tools: signed webhooks, tried again until they
// arrive or are given up. It does not own what is worth saying (anomaly and quota do) nor where that is kept.
// The Service of anomaly runs one Queue for each target.
package notify
