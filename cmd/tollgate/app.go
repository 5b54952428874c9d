package main

import (
	"errors"
	"fmt"

	"tollgate/schemas/catalog"
)

// open starts, joins or connects what a tool needs. Close it with a.close.
func (a *app) open(needs need) (*parts, error) {
	p := &parts{command: a.command, log: a.log, progress: a.err}
	if err := openParts(a.ctx, a.config, needs, p); err != nil {
		return p, err
	}
	if !isRole(a.command) { // a role logs what it waits for
		end := newHealth(p).watch(a.err)
		p.ends = append(p.ends, func() error { end(); return nil })
	}
	return p, nil
}

// close ends what open started; what goes wrong then is told but does not undo the answer that was already
// given.
func (a *app) close(p *parts) {
	if err := p.Close(); err != nil {
		fmt.Fprintf(a.err, "tollgate: while ending: %v\n", err)
	}
}

// with opens what a tool needs, lets it work, and closes what was opened.
func (a *app) with(needs need, do func(*parts) error) error {
	p, err := a.open(needs)
	if err != nil {
		return err
	}
	defer a.close(p)
	return do(p)
}

// withRoles opens everything, and runs the roles of set beside the tool where nobody else does.
func (a *app) withRoles(set role, do func(*roles) error) error {
	return a.with(needAll, func(p *parts) error {
		r, err := a.startRoles(p, set)
		if err != nil {
			return err
		}
		err = do(r)
		if stopped := r.stop(); err == nil {
			err = stopped
		}
		return err
	})
}

// withCatalog opens the store of catalog versions, customers and credentials.
func (a *app) withCatalog(do func(*catalog.Store) error) error {
	return a.with(needClickHouse|needKafka, func(p *parts) error {
		store, err := openCatalogStore(a, p)
		if err != nil {
			return err
		}
		return do(store)
	})
}

// newHasher makes the keyed hashes of credentials, under the configured keys or the one of the embedded
// folder.
func newHasher(config Config) (*catalog.Hasher, error) {
	keys := []catalog.HashingKey{{ID: config.Hash.KeyID, Secret: []byte(config.Hash.Key)}}
	if config.Hash.Key == "" && len(config.Kafka.Brokers) > 0 {
		return nil, errors.New("hash.key is not set: with servers outside the data folder all " +
			"processes must hash credentials under the same key; set TOLLGATE_HASH_KEY to 32 " +
			"random bytes in hex")
	}
	if config.Hash.Key == "" {
		made, err := secretFile(config.Data, "hash.key")
		if err != nil {
			return nil, fmt.Errorf("key of credential hashes: %w", err)
		}
		keys[0].Secret = []byte(made)
	}
	if config.Hash.PreviousKey != "" {
		keys = append(keys, catalog.HashingKey{ID: config.Hash.PreviousID,
			Secret: []byte(config.Hash.PreviousKey)})
	}
	return catalog.NewHasher(keys...)
}
