package stream

import (
	"errors"
	"fmt"
	"slices"
	"testing"
)

// TestIntegrationScan: from given offsets, or the beginning where none is given or it lies outside, to the end.
func TestIntegrationScan(t *testing.T) {
	c := client(t, broker(t))
	p := producer(t, c)
	in := topic(t, c, 2, nil)
	for i := range 5 {
		for partition := range 2 {
			_, err := p.Produce(limit(t), []Record{{Topic: in, Partition: partition,
				Value: []byte(fmt.Sprint(partition, "/", i))}})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	f := func(want []string, from ...int64) {
		t.Helper()
		var got []string
		err := c.Scan(limit(t), in, from, func(r *Record) error {
			got = append(got, string(r.Value))
			return nil
		})
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("from %v: %v, %v; want %v", from, got, err, want)
		}
	}
	whole := []string{"0/0", "0/1", "0/2", "0/3", "0/4", "1/0", "1/1", "1/2", "1/3", "1/4"}
	f(whole)
	f(whole, 0, 0)
	f(whole, 6, -1) // offsets of an earlier life of the topic
	f(whole[4:], 4)
	f(whole[9:], 5, 4)
	f(nil, 5, 5)
	stop := errors.New("enough")
	if err := c.Scan(limit(t), in, nil, func(*Record) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("an error of the caller ends the scan as %v", err)
	}
	if err := c.Scan(limit(t), in+"-none", nil, nil); err == nil {
		t.Error("a topic that does not exist is scanned")
	}
}
