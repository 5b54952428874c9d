package stream

import (
	"context"
	"slices"
	"testing"
)

type got struct {
	partition int
	offset    int64
	value     string
}

// follow reads a partition, sends what it sees and commits it.
func follow(out chan<- got) func(context.Context, *Partition) error {
	return func(ctx context.Context, p *Partition) error {
		for {
			b, err := p.Fetch(ctx)
			if err != nil {
				return err
			}
			for _, r := range b.Records {
				select {
				case out <- got{r.Partition, r.Offset, string(r.Value)}:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			if b.Next > b.Base {
				if err := p.Commit(context.WithoutCancel(ctx), b.Next); err != nil {
					return err
				}
			}
		}
	}
}

func TestIntegrationReadsInOrderAndResumesFromCommit(t *testing.T) {
	for _, standalone := range []bool{true, false} {
		t.Run(map[bool]string{true: "standalone", false: "member"}[standalone], func(t *testing.T) {
			c := client(t, broker(t))
			p := producer(t, c)
			in := topic(t, c, 1, nil)
			o := GroupOptions{Group: name(t, "group"), Topics: []string{in}, Standalone: standalone}
			write(t, p, in, 0, numbers(0, 1000)...)
			ch := make(chan got, 10_000)
			stop := consume(t, c, o, follow(ch))
			for i, want := range numbers(0, 1000) {
				if s := receive(t, ch); s.value != want || s.offset != int64(i) {
					t.Fatalf("record %d: got %+v, want %s", i, s, want)
				}
			}
			waitCommitted(t, c, o.Group, in, 1000)
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			write(t, p, in, 0, numbers(1000, 500)...)
			consume(t, c, o, follow(ch))
			if s := receive(t, ch); s.value != "1000" || s.offset != 1000 {
				t.Fatalf("resumed at %+v, want 1000", s)
			}
		})
	}
}

// waitCommitted polls until the group has committed the sum of offsets.
func waitCommitted(t testing.TB, c *Client, group, topic string, want int64) {
	t.Helper()
	ctx := limit(t)
	for {
		at, err := c.Committed(ctx, group, topic)
		if err != nil {
			t.Fatal(err)
		}
		sum := int64(0)
		for _, o := range at {
			sum += max(o, 0)
		}
		if sum == want {
			return
		}
		if pause(ctx, 0) != nil {
			t.Fatalf("committed %v, want a sum of %d", at, want)
		}
	}
}

func TestIntegrationWatermarksAndDescription(t *testing.T) {
	c := client(t, broker(t))
	p := producer(t, c)
	in := topic(t, c, 3, map[string]string{"retention.ms": "12345678", "cleanup.policy": "delete"})
	write(t, p, in, 2, "a", "b")
	marks, err := c.Watermarks(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	if want := []Watermark{{Partition: 0}, {Partition: 1},
		{Partition: 2, High: 2, Stable: 2}}; !slices.Equal(marks, want) {
		t.Errorf("watermarks %+v, want %+v", marks, want)
	}
	info, err := c.DescribeTopics(t.Context(), in, name(t, "missing"))
	if err != nil {
		t.Fatal(err)
	}
	ms, ok := info[0].Retention()
	if !ok || ms != 12345678 || info[0].Partitions != 3 || info[0].ID == [16]byte{} {
		t.Errorf("described as %+v", info[0])
	}
	if info[1].Exists {
		t.Errorf("a missing topic exists: %+v", info[1])
	}
}
