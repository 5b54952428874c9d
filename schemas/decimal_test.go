package schemas

import (
	"encoding/json"
	"math/rand/v2"
	"testing"
	"time"
)

func TestDecimalRounding(t *testing.T) {
	f := func(text string, places int32, want string) {
		t.Helper()
		if got := MustDecimal(text).Fixed(places); got != want {
			t.Errorf("%s to %d places: %s, want %s", text, places, got, want)
		}
	}
	f("0.5", 0, "1")      // half goes away from zero
	f("-0.5", 0, "-1")    // on both sides
	f("1.5", 0, "2")      // not to even
	f("2.5", 0, "3")      //
	f("1.005", 2, "1.01") // where a float would say 1.00
	f("-1.005", 2, "-1.01")
	f("1.00499999999999999999", 2, "1.00")
	f("-0.001", 2, "0.00") // no negative zero
	f("412.5", 2, "412.50")
	f("7", 0, "7")
	f("123456789012345678901234567890.125", 2, "123456789012345678901234567890.13")
}

func TestDecimalText(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		d, err := ParseDecimal(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		} else if d.String() != want {
			t.Errorf("%q: %s, want %s", text, d, want)
		}
	}
	f("0", "0")
	f("-0", "0")
	f("1000", "1000")
	f("1e3", "1000")
	f("1E-3", "0.001")
	f("00012.500", "12.5")
	for _, text := range []string{"", "abc", "NaN", "Infinity", "1e101", "1e-101", "1,5", "1.2.3", "0x10"} {
		if d, err := ParseDecimal(text); err == nil {
			t.Errorf("%q: %s, want an error", text, d)
		}
	}
}

func TestDecimalDivision(t *testing.T) {
	f := func(x, y, floor, ceil string) {
		t.Helper()
		a, b := MustDecimal(x), MustDecimal(y)
		if got := a.DivFloor(b).String(); got != floor {
			t.Errorf("⌊%s/%s⌋ = %s, want %s", x, y, got, floor)
		}
		if got := a.DivCeil(b).String(); got != ceil {
			t.Errorf("⌈%s/%s⌉ = %s, want %s", x, y, got, ceil)
		}
	}
	f("0", "1000", "0", "0")
	f("1", "1000", "0", "1")
	f("1000", "1000", "1", "1")
	f("1000.000001", "1000", "1", "2")
	f("1e30", "3", "333333333333333333333333333333", "333333333333333333333333333334")
	if got := MustDecimal("1").Div(MustDecimal("3"), 4).String(); got != "0.3333" {
		t.Errorf("1/3 = %s", got)
	}
	if got := MustDecimal("2").Div(MustDecimal("3"), 4).String(); got != "0.6667" {
		t.Errorf("2/3 = %s", got)
	}
}

// TestDecimalLaws: addition is exact whatever the order, and text and JSON give the number back.
func TestDecimalLaws(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 1))
	t.Logf("seed %d", seed)
	for range 200 {
		numbers := make([]Decimal, 50)
		for i := range numbers {
			numbers[i] = NewDecimal(random.Int64()-random.Int64(), -int32(random.IntN(13)))
		}
		var forward, backward Decimal
		for i := range numbers {
			forward = forward.Add(numbers[i])
			backward = backward.Add(numbers[len(numbers)-1-i])
		}
		if !forward.Equal(backward) {
			t.Fatalf("%s ≠ %s", forward, backward)
		}
		text, err := json.Marshal(forward)
		if err != nil {
			t.Fatal(err)
		}
		var back Decimal
		if err := json.Unmarshal(text, &back); err != nil || !back.Equal(forward) {
			t.Fatalf("%s came back as %s: %v", text, back, err)
		}
		if p := int32(random.IntN(5)); forward.Round(p).Sub(forward).Abs().Cmp(MustDecimal("0.5").Mul(NewDecimal(1, -p))) > 0 {
			t.Fatalf("%s rounded to %d places moved by more than half a unit", forward, p)
		}
	}
}

func TestCanonicalQuantity(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		got, err := CanonicalQuantity(text)
		if want == "" && err == nil {
			t.Errorf("%q: %s, want an error", text, got)
		} else if want != "" && got != want {
			t.Errorf("%q: %q (%v), want %q", text, got, err, want)
		}
	}
	f("0", "0")
	f("1250", "1250")
	f("1250.0", "1250")
	f("007", "7")
	f("-3", "-3")
	f("0.000000000001", "0.000000000001")     // the twelfth digit
	f("0.0000000000001", "")                  // the thirteenth
	f("1000000000000000", "1000000000000000") // 10^15
	f("1000000000000000.1", "")
	f("-1000000000000001", "")
	f("1e15", "1000000000000000")
	f("1e16", "")
	f("NaN", "")
	f("", "")
}
