package aggregator

import "sync"

// lanes are the partitions that this process owns now.
type lanes struct {
	mu  sync.Mutex
	all []*lane
}

func (s *lanes) add(l *lane) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, l)
}

// remove ends a lane: what it has in a flush is still written, which is harmless, but no longer committed.
func (s *lanes) remove(l *lane, k *sink) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, other := range s.all {
		if other == l {
			s.all = append(s.all[:i], s.all[i+1:]...)
			break
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	l.gone = true
}

// get is the lane of a partition, nil where it is not ours.
func (s *lanes) get(topic string, partition int) *lane {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.all {
		if l.topic == topic && l.partition == partition {
			return l
		}
	}
	return nil
}
