package embedded

import (
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/alicebob/miniredis/v2"
)

// clockTick is how often the imitation's clock is set. Not less: it costs a lock. Not more: the shortest
// limits are per second.
const clockTick = 10 * time.Millisecond

// dumpedKey is one key of the imitation in its file.
type dumpedKey struct {
	Key, Kind string
	TTL       time.Duration // 0: none
	Text      string
	List      []string
	Hash      map[string]string
	Scores    map[string]float64
}

// startMini runs the imitation inside this process.
func startMini(ctx context.Context, o Options) (*Cache, error) {
	ctx, cancel := context.WithTimeout(ctx, o.StartTimeout)
	defer cancel()
	lock, err := lockFolder(o.Dir, ctx.Done())
	if err != nil {
		return nil, fmt.Errorf("start embedded cache: does another process use it? %w", err)
	}
	c := &Cache{
		mini: miniredis.NewMiniRedis(), dump: filepath.Join(o.Dir, "keys.gob"),
		stop: make(chan struct{}), lock: lock,
	}
	c.mini.SetTime(o.Clock())
	if err := c.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("start embedded cache: %w", err), lock.Close())
	}
	if err := c.mini.StartAddr(net.JoinHostPort("127.0.0.1", strconv.Itoa(o.Port))); err != nil {
		return nil, errors.Join(fmt.Errorf("start embedded cache: %w", err), lock.Close())
	}
	c.mini.ClockTTL(true)
	c.addr = c.mini.Addr()
	c.done.Go(func() {
		ticker := time.NewTicker(clockTick)
		defer ticker.Stop()
		for {
			select {
			case <-c.stop:
				return
			case <-ticker.C:
				c.mini.SetTime(o.Clock())
			}
		}
	})
	o.Log.Info("embedded cache started: no redis-server on PATH, so an imitation with slow scripts",
		"addr", c.addr)
	return c, nil
}

// Close stops the cache. The imitation writes its keys to its folder.
func (c *Cache) Close() error {
	if c.child != nil {
		if err := c.child.stop(); err != nil {
			return fmt.Errorf("stop embedded cache: %w", err)
		}
		return nil
	}
	close(c.stop)
	c.done.Wait()
	err := c.save()
	c.mini.Close()
	if err := errors.Join(err, c.lock.Close()); err != nil {
		return fmt.Errorf("stop embedded cache: %w", err)
	}
	return nil
}

// save writes all keys to the file, in one step.
func (c *Cache) save() error {
	keys, err := c.dumpKeys()
	if err != nil {
		return err
	}
	out, err := os.Create(c.dump + ".new")
	if err != nil {
		return fmt.Errorf("write keys: %w", err)
	}
	err = gob.NewEncoder(out).Encode(keys)
	if err := errors.Join(err, out.Sync(), out.Close()); err != nil {
		return fmt.Errorf("write keys: %w", err)
	}
	if err := os.Rename(c.dump+".new", c.dump); err != nil {
		return fmt.Errorf("write keys: %w", err)
	}
	return nil
}

// dumpKeys reads the keys of the imitation's first database, the only one that Tollgate uses.
func (c *Cache) dumpKeys() ([]dumpedKey, error) {
	var keys []dumpedKey
	for _, key := range c.mini.Keys() {
		d := dumpedKey{Key: key, Kind: c.mini.Type(key), TTL: c.mini.TTL(key)}
		var err error
		switch d.Kind {
		case "string":
			d.Text, err = c.mini.Get(key)
		case "list":
			d.List, err = c.mini.List(key)
		case "set":
			d.List, err = c.mini.Members(key)
		case "zset":
			d.Scores, err = c.mini.SortedSet(key)
		case "hash":
			var fields []string
			fields, err = c.mini.HKeys(key)
			d.Hash = make(map[string]string, len(fields))
			for _, field := range fields {
				d.Hash[field] = c.mini.HGet(key, field)
			}
		default:
			err = fmt.Errorf("keys of kind %s are not kept", d.Kind)
		}
		if err != nil {
			return nil, fmt.Errorf("read key %q: %w", key, err)
		}
		keys = append(keys, d)
	}
	return keys, nil
}

// load reads the file of an earlier run, if there is one. The time between does not count: windows carry
// theirs in the key.
func (c *Cache) load() error {
	in, err := os.Open(c.dump)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read keys: %w", err)
	}
	defer in.Close()
	var keys []dumpedKey
	if err := gob.NewDecoder(in).Decode(&keys); err != nil {
		return fmt.Errorf("read keys from %s: %w (remove the file to begin without)", c.dump, err)
	}
	for _, d := range keys {
		if err := c.restore(d); err != nil {
			return fmt.Errorf("restore key %q: %w", d.Key, err)
		}
	}
	return nil
}

// restore sets one key.
func (c *Cache) restore(d dumpedKey) error {
	var err error
	switch d.Kind {
	case "string":
		err = c.mini.Set(d.Key, d.Text)
	case "list":
		_, err = c.mini.Push(d.Key, d.List...)
	case "set":
		_, err = c.mini.SetAdd(d.Key, d.List...)
	case "zset":
		for member, score := range d.Scores {
			if _, err := c.mini.ZAdd(d.Key, score, member); err != nil {
				return err
			}
		}
	case "hash":
		for field, value := range d.Hash {
			c.mini.HSet(d.Key, field, value)
		}
	}
	if d.TTL > 0 {
		c.mini.SetTTL(d.Key, d.TTL)
	}
	return err
}
