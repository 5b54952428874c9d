package explore

import (
	"strings"
	"testing"
)

// jugs is the old puzzle of two jugs of three and five litres.
type jugs struct{ three, five int8 }

func pour(s jugs, yield func(Step, jugs)) {
	yield(Step{"three", "is filled", 3}, jugs{3, s.five})
	yield(Step{"five", "is filled", 5}, jugs{s.three, 5})
	yield(Step{"three", "is emptied", 0}, jugs{0, s.five})
	yield(Step{"five", "is emptied", 0}, jugs{s.three, 0})
	over := min(s.three, 5-s.five)
	yield(Step{"three", "is poured over", int(over)}, jugs{s.three - over, s.five + over})
	over = min(s.five, 3-s.three)
	yield(Step{"five", "is poured over", int(over)}, jugs{s.three + over, s.five - over})
}

// TestWalk: every state is seen once, and the way to a wrong one is the shortest.
func TestWalk(t *testing.T) {
	f := func(what string, bound int, want Result, wrong func(jugs) string) Result {
		t.Helper()
		got := Walk(Model[jugs]{First: []jugs{{}}, Next: pour, Wrong: wrong, MaxStates: bound})
		if got.States != want.States || got.Complete != want.Complete || len(got.Path) != len(want.Path) ||
			(got.Wrong == "") != (want.Wrong == "") {
			t.Errorf("%s: %s", what, got)
		}
		return got
	}
	never := func(jugs) string { return "" }
	f("all states: one jug is always empty or full", 0, Result{States: 16, Complete: true}, never)
	f("bounded", 5, Result{States: 6}, never)
	got := f("four litres", 0, Result{States: 15, Wrong: "four", Path: make([]Step, 6)}, func(s jugs) string {
		if s.five == 4 {
			return "four"
		}
		return ""
	})
	way := "WRONG: four, after\n  five is filled 5\n  five is poured over 3"
	if text := got.String(); !strings.Contains(text, way) {
		t.Error(text)
	}
	f("the first state", 0, Result{States: 1, Wrong: "begun"}, func(jugs) string { return "begun" })
}
