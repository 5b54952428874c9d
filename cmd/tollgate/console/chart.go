package console

import (
	"math"
	"strconv"
	"strings"
	"time"

	"tollgate/schemas"
)

// This file draws: numbers in, geometry out. Floats are for pictures only; every figure in words is exact.

// chart is the usage of one meter by day, as bars of an SVG of chartWidth × chartHeight.
type chart struct {
	Meter, Unit   string
	Total         string // of the whole period, exact
	Width, Height int
	Left, Base    float64 // where the bars' field begins, and the line they stand on
	Right         float64
	Bars          []bar
	Lines         []gridLine
	First, Last   string // days, as the axis names them
}

// bar is one day.
type bar struct {
	X, Y, Width, Height float64
	Title               string // what a pointer that rests on it is told
	Partial             bool   // the day is not over
}

// gridLine is one line of the vertical axis.
type gridLine struct {
	Y    float64
	Text string
}

// The size of a chart in its own units. Narrow, so that its words keep their size on a telephone.
const (
	chartWidth  = 340
	chartHeight = 150
	chartLeft   = 44
	chartTop    = 10
	chartFoot   = 22
)

// drawChart draws the days of a period; usage holds rows of one meter, by the start of their day.
func drawChart(p schemas.Period, usage map[time.Time]schemas.Decimal, unit string, now time.Time) chart {
	c := chart{Unit: unit, Width: chartWidth, Height: chartHeight, Left: chartLeft, Right: chartWidth - 2,
		Base: chartHeight - chartFoot, First: p.From.UTC().Format("2 Jan"),
		Last: p.To.Add(-time.Minute).UTC().Format("2 Jan")}
	days, greatest := int(math.Ceil(p.To.Sub(p.From).Hours()/24)), 0.0
	for _, q := range usage {
		greatest = max(greatest, q.Float64())
	}
	top := niceCeiling(greatest)
	field := c.Base - chartTop
	for i := range 3 { // nothing, half and all of it
		value := top * float64(i) / 2
		c.Lines = append(c.Lines, gridLine{round(c.Base - field*float64(i)/2), short(value)})
	}
	step := (c.Right - c.Left) / float64(max(days, 1))
	for i := range days {
		day := p.From.AddDate(0, 0, i).UTC()
		q, ok := usage[day]
		if !ok {
			continue
		}
		height := max(field*q.Float64()/top, 0)
		if q.Sign() > 0 {
			height = max(height, 1) // a day with usage is never invisible
		}
		c.Bars = append(c.Bars, bar{X: round(c.Left + step*(float64(i)+0.12)), Width: round(step * 0.76),
			Y: round(c.Base - height), Height: round(height), Partial: day.AddDate(0, 0, 1).After(now),
			Title: day.Format("Mon 2 Jan 2006") + ": " + grouped(q.String()) + " " + unit})
	}
	return c
}

func round(x float64) float64 { return math.Round(x*10) / 10 }

// niceCeiling is the smallest of 1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8 × 10ⁿ that is at least x: its half is
// short too, and bars fill at least two thirds of their field.
func niceCeiling(x float64) float64 {
	if x <= 0 {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(x)))
	for _, step := range []float64{1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8, 10} {
		if step*power >= x {
			return step * power
		}
	}
	return 10 * power
}

// short is a round number for an axis: 0, 250, 1.5k, 20M.
func short(x float64) string {
	for _, unit := range []struct {
		from float64
		name string
	}{{1e15, "P"}, {1e12, "T"}, {1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if x >= unit.from {
			return strconv.FormatFloat(x/unit.from, 'f', -1, 64) + unit.name
		}
	}
	return strconv.FormatFloat(x, 'g', 3, 64)
}

// grouped puts commas between the thousands of a decimal in plain notation: "-1234567.5" is "-1,234,567.5".
func grouped(number string) string {
	sign, rest := "", number
	if strings.HasPrefix(rest, "-") {
		sign, rest = "−", rest[1:]
	}
	whole, fraction, found := strings.Cut(rest, ".")
	var out strings.Builder
	for i, digit := range whole {
		if i > 0 && (len(whole)-i)%3 == 0 {
			out.WriteByte(',')
		}
		out.WriteRune(digit)
	}
	if found {
		out.WriteString("." + fraction)
	}
	return sign + out.String()
}

// amount is money as people read it, with the digits of its currency: "1,234.50 EUR".
func amount(x schemas.Decimal, currency string) string {
	number, code, _ := strings.Cut(schemas.Money{Amount: x, Currency: currency}.String(), " ")
	return grouped(number) + " " + code
}
