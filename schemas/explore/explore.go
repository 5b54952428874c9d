// Package explore walks every interleaving of a model's steps, breadth first, and says how the first wrong
// state was reached. It owns the walk and the table of states that were seen, and knows nothing of what is
// modelled; models are test files beside the pure functions that they call. Only tests import it.
package explore

import (
	"fmt"
	"hash/maphash"
	"strings"
)

// Step names what somebody did between two states.
type Step struct {
	Who  string
	What string
	N    int // which one, where there are several
}

// String is "who what n".
func (s Step) String() string { return fmt.Sprintf("%s %s %d", s.Who, s.What, s.N) }

// Model is what is explored. States are plain values: equal states have equal futures.
type Model[S comparable] struct {
	// First are the states that exploration begins with.
	First []S
	// Next yields every state that one step of anybody leads to.
	Next func(s S, yield func(Step, S))
	// Wrong says what must never be so in a state, "" where nothing is wrong.
	Wrong func(s S) string
	// MaxStates bounds the walk; default 0: until every state was seen. A walk that it ended is not Complete.
	MaxStates int
}

// Result is what a walk found.
type Result struct {
	States   int    // different ones
	Steps    int    // between them
	Depth    int    // the most steps from a first state
	Complete bool   // every state that can be reached was seen
	Wrong    string // what was wrong in the first wrong state; "" = none was
	Path     []Step // the shortest way to it
}

// String is a line for a test's log.
func (r Result) String() string {
	line := fmt.Sprintf("%d states, %d steps, depth %d", r.States, r.Steps, r.Depth)
	if !r.Complete {
		line += ", not complete"
	}
	if r.Wrong == "" {
		return line + ", none wrong"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s\nWRONG: %s, after", line, r.Wrong)
	for _, s := range r.Path {
		b.WriteString("\n  " + s.String())
	}
	return b.String()
}

// walk is a walk under way. A state is remembered by a 64-bit hash with the hash it was reached from, 16
// bytes: of 10 million states two share one with a chance of 3 in a million, and one of them would then not
// be followed.
type walk[S comparable] struct {
	model  Model[S]
	seed   maphash.Seed
	parent map[uint64]uint64
	result Result
}

// Walk explores a model until a state is wrong, every state was seen, or MaxStates were.
func Walk[S comparable](m Model[S]) Result {
	w := &walk[S]{model: m, seed: maphash.MakeSeed(), parent: map[uint64]uint64{}}
	var layer, next []S
	for _, s := range m.First {
		if w.see(s, 0) {
			layer = append(layer, s)
		}
	}
	for len(layer) > 0 {
		next = next[:0]
		for _, s := range layer {
			if wrong := m.Wrong(s); wrong != "" {
				w.result.States, w.result.Wrong, w.result.Path = len(w.parent), wrong, w.path(s)
				return w.result
			}
			from := maphash.Comparable(w.seed, s)
			m.Next(s, func(_ Step, t S) {
				w.result.Steps++
				if w.see(t, from) {
					next = append(next, t)
				}
			})
		}
		if m.MaxStates > 0 && len(w.parent) >= m.MaxStates {
			w.result.States = len(w.parent)
			return w.result
		}
		if len(next) > 0 {
			w.result.Depth++
		}
		layer, next = next, layer
	}
	w.result.States, w.result.Complete = len(w.parent), true
	return w.result
}

// see remembers a state, and tells whether it is new.
func (w *walk[S]) see(s S, from uint64) bool {
	h := maphash.Comparable(w.seed, s)
	if _, ok := w.parent[h]; ok {
		return false
	}
	w.parent[h] = from
	return true
}

// path finds the steps that led to a state: its ancestors by their hashes, then the steps between them.
func (w *walk[S]) path(last S) []Step {
	first := map[uint64]S{}
	for _, s := range w.model.First {
		first[maphash.Comparable(w.seed, s)] = s
	}
	var hashes []uint64
	at := maphash.Comparable(w.seed, last)
	s, found := first[at]
	for !found {
		hashes = append(hashes, at)
		at = w.parent[at]
		s, found = first[at]
	}
	path := make([]Step, 0, len(hashes))
	for i := len(hashes) - 1; i >= 0; i-- {
		var by Step
		var to S
		w.model.Next(s, func(step Step, t S) {
			if maphash.Comparable(w.seed, t) == hashes[i] {
				by, to = step, t
			}
		})
		path, s = append(path, by), to
	}
	return path
}
