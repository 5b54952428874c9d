package console

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"tollgate/schemas"
)

func TestGrouped(t *testing.T) {
	for text, want := range map[string]string{"0": "0", "999": "999", "1000": "1,000",
		"-1234567.5": "−1,234,567.5", "0.0001": "0.0001",
		"123456789012345678901234567890": "123,456,789,012,345,678,901,234,567,890", "-100": "−100"} {
		if got := grouped(text); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

func TestAmount(t *testing.T) {
	f := func(number, currency, want string) {
		t.Helper()
		if got := amount(schemas.MustDecimal(number), currency); got != want {
			t.Errorf("%s %s: %s, want %s", number, currency, got, want)
		}
	}
	f("412.5", "EUR", "412.50 EUR")
	f("1200", "JPY", "1,200 JPY")
	f("-1234.5", "BHD", "−1,234.500 BHD")
}

func TestAxis(t *testing.T) {
	for x, want := range map[float64]string{0: "1", 0.03: "0.03", 1: "1", 1.01: "1.2", 250: "300", 999: "1k",
		1_000: "1k", 1_001: "1.2k", 7e6: "8M", 9.1e9: "10G", 3.1e15: "4P"} {
		if got := short(niceCeiling(x)); got != want {
			t.Errorf("an axis for %g ends at %s, want %s", x, got, want)
		}
	}
}

func TestShellQuoting(t *testing.T) {
	for text, want := range map[string]string{"acorn": "acorn", "203.0.113.9": "203.0.113.9", "": "''",
		"a b": "'a b'", "$(rm x)": "'$(rm x)'", "it's": `'it'\''s'`, "-o": "'-o'", "a\nreboot": "'areboot'",
		"`id`": "'`id`'", "a;b": "'a;b'", "é": "'é'"} {
		if got := shell(text); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

func TestPlaces(t *testing.T) {
	for x, want := range map[float64]string{0: "0", 412: "412", 412.25: "412.25", 0.1 + 0.2: "0.3",
		1e6: "1,000,000", -3.5: "−3.5", 100: "100"} {
		if got := places(x); got != want {
			t.Errorf("%g: %s, want %s", x, got, want)
		}
	}
}

// TestBarsStayInTheirField draws any usage of any period: bars stand in the field, do not overlap, and are as
// high as what they show.
func TestBarsStayInTheirField(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	for range 500 {
		days := 1 + random.IntN(200)
		from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).AddDate(0, 0, random.IntN(400))
		p := schemas.Period{From: from, To: from.AddDate(0, 0, days)}
		usage := map[time.Time]schemas.Decimal{}
		for i := range days {
			if random.IntN(4) > 0 {
				usage[from.AddDate(0, 0, i)] = schemas.NewDecimal(random.Int64N(1_000_000), int32(random.IntN(12)-6))
			}
		}
		c := drawChart(p, usage, "call", from.AddDate(0, 0, random.IntN(days+1)))
		if len(c.Bars) != len(usage) {
			t.Fatalf("%d bars for %d days with usage", len(c.Bars), len(usage))
		}
		end := c.Left
		for _, b := range c.Bars {
			if b.X < end-0.11 || b.X+b.Width > c.Right+0.11 || b.Y < chartTop-0.11 ||
				math.Abs(b.Y+b.Height-c.Base) > 0.11 || b.Height < 0 {
				t.Fatalf("a bar is out of place: %+v in %+v", b, c)
			}
			end = b.X + b.Width
		}
	}
}

func TestChartOfOneDay(t *testing.T) {
	from := time.Date(2026, 9, 17, 0, 0, 0, 0, time.UTC)
	p := schemas.Period{From: from, To: from.AddDate(0, 0, 2)}
	c := drawChart(p, map[time.Time]schemas.Decimal{from: schemas.MustDecimal("100"),
		from.AddDate(0, 0, 1): schemas.MustDecimal("0.001")}, "call", from.Add(30*time.Hour))
	if len(c.Bars) != 2 || c.Bars[0].Height != chartHeight-chartFoot-chartTop || c.Bars[0].Partial ||
		!c.Bars[1].Partial || c.Bars[1].Height != 1 || !strings.Contains(c.Bars[0].Title, "17 Sep 2026: 100 call") ||
		c.First != "17 Sep" || c.Last != "18 Sep" {
		t.Errorf("%+v", c)
	}
}
