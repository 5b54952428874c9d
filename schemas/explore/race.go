//go:build race

package explore

// Raced tells that the race detector is on, which makes a walk some ten times slower: tests then explore
// less.
const Raced = true
