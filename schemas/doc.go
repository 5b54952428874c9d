// Package schemas owns the nouns of Tollgate: access event, usage event, quantity, money, period and
// position. It owns no judgment and no I/O: what a noun means for a quota, an invoice or an alert is said by
// the domains. Every other package of the program imports it; it imports nothing of ours.
package schemas
