package anomaly_test

import (
	"fmt"
	"net/netip"
	"time"

	"tollgate/anomaly"
	"tollgate/schemas/wire"
)

// An Engine takes events and gives alerts; time is the events' own.
func ExampleEngine() {
	engine := anomaly.NewEngine(anomaly.DefaultSettings(), anomaly.Limits{})
	at := time.Date(2026, 3, 2, 14, 0, 0, 0, time.UTC)
	address := netip.MustParseAddr("203.0.113.66").As16()
	for i := range 25 {
		e := &wire.UsageEvent{Source: "gw", Id: fmt.Sprint(i), Time: at.UnixMilli(), Method: "POST", Path: "/login",
			Status: 401, Address: address[:]}
		engine.Observe(0, e, at.UnixMilli())
		at = at.Add(10 * time.Second)
	}
	for _, alert := range engine.Drain() {
		fmt.Println(alert.Status, alert.Severity, alert.Sentence)
	}
	// Output: opened medium address 203.0.113.66 failed to authenticate 24 times in 10 min
}
