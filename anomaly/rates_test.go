package anomaly

import (
	"bufio"
	"compress/gzip"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/shareddata"
)

// readRates are the calls of each minute of a real server over eight weeks.
func readRates(t testing.TB) []int {
	t.Helper()
	f, err := os.Open(shareddata.Path(t, "rates/requests_per_minute.txt.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var out []int
	for lines := bufio.NewScanner(z); lines.Scan(); {
		n, err := strconv.Atoi(lines.Text())
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, n)
	}
	return out
}

// playRates feeds the rates to the spike detector as one key's calls. They go in as tallies, as millions of
// events would make them.
func playRates(rates []int) []schemas.Alert {
	g := NewEngine(DefaultSettings(), Limits{})
	k := nameKey(kindCredential, "k_nasa")
	first := int32(time.Date(1995, 7, 1, 4, 0, 0, 0, time.UTC).Unix() / 60)
	var out []schemas.Alert
	for i, n := range rates {
		minute := first + int32(i)
		g.slots[minute] = &slot{minute: minute}
		g.slots[minute].tallies.put(k, &tally{name: "k_nasa", customer: "c_nasa", calls: uint32(n), load: uint32(n)})
		g.tallies++
		out = append(out, g.closeUntil(minute)...)
	}
	return out
}

// TestSpikesOnRealRates states what the spike detector does on eight weeks of real rates: one alert of its
// own (on 13 July 1995, when a shuttle was launched), and how many injected spikes of which size it finds.
func TestSpikesOnRealRates(t *testing.T) {
	rates := readRates(t)
	weeks := float64(len(rates)) / (7 * 24 * 60)
	clean := inForce(playRates(rates))
	for _, a := range clean {
		t.Logf("%s %s", a.Opened.Format(time.DateTime), a.Sentence)
	}
	t.Logf("no spikes: %d alerts in %.1f weeks (%.2f a week)", len(clean), weeks, float64(len(clean))/weeks)
	if len(clean) > 1 {
		t.Errorf("%d false alarms in %.1f weeks, want at most 1", len(clean), weeks)
	}
	for _, c := range []struct {
		factor float64 // times the mean of the busiest hour of the day before
		least  int     // found of 20, at least
	}{{3, 8}, {5, 17}, {10, 20}, {20, 20}} {
		found, late := 0, 0
		const seeds, tries = 2, 10
		for seed := range uint64(seeds) {
			r := rand.New(rand.NewPCG(seed, 1995))
			spiked := append([]int(nil), rates...)
			var at [tries]int
			for i := range at { // one in each of ten stretches of five days, from the eighth day on
				at[i] = 8*1440 + i*5*1440 + r.IntN(4*1440)
				busiest := 60 // a thief does not care that the server was off the day before
				for h := at[i] - 1440; h < at[i]; h += 60 {
					n := 0
					for _, v := range rates[h : h+60] {
						n += v
					}
					busiest = max(busiest, n/60)
				}
				for m := range 15 {
					spiked[at[i]+m] += int(c.factor * float64(busiest))
				}
			}
			alerts := inForce(playRates(spiked))
			for _, spike := range at {
				before := found
				from := time.Date(1995, 7, 1, 4, 0, 0, 0, time.UTC).Add(time.Duration(spike) * time.Minute)
				for _, a := range alerts {
					// A second spike within the cool-down is the same alert, longer.
					d := a.Opened.Sub(from)
					if d >= 0 && d < 15*time.Minute || d < 0 && a.Resolved.After(from) {
						found++
						if d > 10*time.Minute {
							late++
						}
						break
					}
				}
				if found == before {
					t.Logf("missed %s %v", from, spiked[spike-5:spike+20])
				}
			}
			if extra := len(alerts) - tries; extra > 1 {
				t.Errorf("factor %g seed %d: %d alerts for %d spikes", c.factor, seed, len(alerts), tries)
			}
		}
		t.Logf("15 min at %g× the busiest hour's mean: %d of %d found, %d after more than 10 min", c.factor, found, seeds*tries, late)
		if found < c.least {
			t.Errorf("factor %g: %d of %d found, want at least %d", c.factor, found, seeds*tries, c.least)
		}
	}
}

// TestSyntheticTruth states precision and recall of all detectors on two weeks of synthetic traffic with
// seeded attacks.
func TestSyntheticTruth(t *testing.T) {
	type truth struct{ detector, entity string }
	wrong, found, missed := 0, 0, 0
	for seed := range uint64(2) {
		w := newWorld(seed, time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC))
		w.traffic(14*24*time.Hour, 25)
		want := map[truth]bool{}
		day := func(d int) time.Duration {
			return time.Duration(d)*24*time.Hour + time.Duration(w.r.IntN(20))*time.Hour
		}
		for i := range 5 {
			c := w.r.IntN(25)
			w.leak(c, day(8+i), 3*time.Hour, 9_000+w.r.IntN(20_000))
			want[truth{schemas.DetectorSpike, fmt.Sprintf("k_%d", c)}] = true
			fast, slow, scanner := fmt.Sprintf("203.0.113.%d", i), fmt.Sprintf("203.0.114.%d", i), fmt.Sprintf("198.51.100.%d", i)
			w.bruteForce(fast, day(i), 5*time.Minute, 40+w.r.IntN(400))
			w.bruteForce(slow, day(i), 20*time.Hour, 150+w.r.IntN(100))
			w.scan(scanner, day(2*i), time.Duration(2+w.r.IntN(12))*time.Minute, 30+w.r.IntN(300))
			want[truth{schemas.DetectorBruteForce, fast}] = true
			want[truth{schemas.DetectorBruteForce, slow}] = true
			want[truth{schemas.DetectorPathScan, scanner}] = true
		}
		for a := range 200 { // 4 failures each from 200 addresses within an hour
			w.bruteForce(fmt.Sprintf("192.0.2.%d", a), 10*24*time.Hour+9*time.Hour, time.Hour, 4)
		}
		want[truth{schemas.DetectorBruteForce, "api /v1/login"}] = true
		got := map[truth]bool{}
		for _, a := range inForce(run(NewEngine(DefaultSettings(), Limits{}), w.sorted())) {
			k := truth{a.Detector, a.Entity.Value}
			if got[k] = true; !want[k] {
				wrong++
				t.Logf("seed %d: wrong: %s %s", seed, a.Opened.Format(time.DateTime), a.Sentence)
			}
		}
		for k := range want {
			if got[k] {
				found++
			} else {
				missed++
				t.Logf("seed %d: missed: %v", seed, k)
			}
		}
	}
	t.Logf("precision %.3f, recall %.3f (%d found, %d missed, %d wrong)", float64(found)/float64(found+wrong),
		float64(found)/float64(found+missed), found, missed, wrong)
	if wrong > 1 || missed > 1 {
		t.Errorf("%d wrong and %d missed of %d, want at most 1 each", wrong, missed, found+missed)
	}
}
