package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
)

// keyCommands manage credentials: what is shown at the gate.
type keyCommands struct {
	Create keyCreate `cmd:"" help:"Make a new API key of a customer; it is shown this once."`
	Add    keyAdd    `cmd:"" help:"Say whose a name is that a gateway gives a consumer."`
	List   keyList   `cmd:"" help:"List credentials, without any secret."`
	Block  keyBlock  `cmd:"" help:"Block a credential now."`
	Ingest keyIngest `cmd:"" help:"Make a key with which a gateway may POST events, and the setting that admits it."`
	Import keyImport `cmd:"" help:"Import credentials from CSV; raw keys in it are hashed at once."`
}

type keyCreate struct {
	ID       string `arg:"" help:"Public name of the key, shown in usage and alerts."`
	Customer string `arg:"" help:"Customer."`
	change
}

// Run prints the secret once; only its keyed hash is stored.
func (c keyCreate) Run(a *app) error {
	hasher, err := newHasher(a.config)
	if err != nil {
		return err
	}
	return a.withCatalog(func(store *catalog.Store) error {
		secret, credential, err := catalog.NewCredential(hasher, c.ID, c.Customer)
		if err != nil {
			return err
		}
		if _, err := store.PutCredentials(a.ctx, []catalog.Credential{credential},
			c.Reason, who(c.By)); err != nil {
			return err
		}
		fmt.Fprintln(a.out, secret)
		fmt.Fprintln(a.err, "This is the only time the key is shown.")
		return nil
	})
}

type keyAdd struct {
	ID       string `arg:"" help:"Public name of the credential."`
	Customer string `arg:"" help:"Customer."`
	Name     string `required:"" help:"What the gateway calls the consumer, application or user."`
	Source   string `help:"Only for events of this source."`
	change
}

// Run stores one credential of a public name.
func (c keyAdd) Run(a *app) error {
	return a.withCatalog(func(store *catalog.Store) error {
		number, err := store.PutCredentials(a.ctx, []catalog.Credential{{ID: c.ID, Customer: c.Customer,
			Kind: schemas.CredentialName, Match: c.Name, Source: c.Source}}, c.Reason, who(c.By))
		return told(a, number, 1, "credential", err)
	})
}

type keyList struct {
	Customer []string `arg:"" optional:"" help:"Customers; all where none is named."`
	form
}

// Run lists credentials by id; as CSV it is what key import reads. People see only the beginning of a hash.
func (c keyList) Run(a *app) error {
	return a.withCatalog(func(store *catalog.Store) error {
		t := table{columns: catalog.CredentialColumns,
			none: "no credential" + ofCustomers(c.Customer) + "; `tollgate key create ID CUSTOMER` " +
				"makes an API key, `tollgate key add` names what a gateway calls a consumer"}
		err := store.Credentials(a.ctx, catalog.Filter{Customers: c.Customer},
			func(one catalog.Credential) error {
				if one.Kind == schemas.CredentialHash && c.Output == "table" {
					one.Match = shorten(one.Match, 20)
				}
				t.add(one.Cells()...)
				return nil
			})
		if err != nil {
			return err
		}
		return a.show(&t, c.Output)
	})
}

type keyBlock struct {
	ID []string `arg:"" help:"Credentials."`
	change
}

// Run blocks all that are named, or none where one is unknown.
func (c keyBlock) Run(a *app) error {
	return a.withCatalog(func(store *catalog.Store) error {
		var rows []catalog.Credential
		err := store.Credentials(a.ctx, catalog.Filter{IDs: c.ID}, func(one catalog.Credential) error {
			one.Blocked = true
			rows = append(rows, one)
			return nil
		})
		if err != nil {
			return err
		}
		if len(rows) != len(c.ID) {
			return fmt.Errorf("%d of %d credentials are known: %s; `tollgate key list` shows them", len(rows),
				len(c.ID), strings.Join(c.ID, ", "))
		}
		number, err := store.PutCredentials(a.ctx, rows, c.Reason, who(c.By))
		return told(a, number, len(rows), "credentials blocked", err)
	})
}

type keyImport struct {
	File string `arg:"" help:"CSV with a first line of some of: ${credential_columns}; - is standard input."`
	change
}

// Run stores all rows of the file or none.
func (c keyImport) Run(a *app) error {
	hasher, err := newHasher(a.config)
	if err != nil {
		return err
	}
	return withFile(a, c.File, func(r io.Reader) error {
		rows, hashed, problems := catalog.ReadCredentials(c.File, r, hasher)
		if len(problems) > 0 {
			return problems.Err()
		}
		if len(rows) == 0 {
			return noRows(a, c.File)
		}
		return a.withCatalog(func(store *catalog.Store) error {
			number, err := store.PutCredentials(a.ctx, rows, c.Reason, who(c.By))
			if err == nil {
				fmt.Fprint(a.err, aboutHashes(rows, hashed, hasher.KeyIDs()))
			}
			return told(a, number, len(rows), "credentials", err)
		})
	})
}

// aboutHashes says of which imported rows nobody can tell here whether a key will ever match them: those that
// came as hashes. Under another hash.key than the one they were made with they are only numbers.
func aboutHashes(rows []catalog.Credential, hashed int, keyIDs []string) string {
	if hashed == 0 {
		return ""
	}
	strange := map[string]bool{}
	for i := range rows {
		if id := strings.Split(rows[i].Match, ":"); rows[i].Kind == schemas.CredentialHash &&
			!slices.Contains(keyIDs, id[1]) {
			strange[id[1]] = true
		}
	}
	text := fmt.Sprintf("%d of %d credentials came as keyed hashes: keys match them only where hash.key is "+
		"the one that they were made under; what was made under another must be imported as keys, or made "+
		"anew with `tollgate key create`\n", hashed, len(rows))
	if len(strange) > 0 {
		text += fmt.Sprintf("this program has no hashing key %s, so that none of its hashes is ever met\n",
			strings.Join(slices.Sorted(maps.Keys(strange)), ", "))
	}
	return text
}

type keyIngest struct {
	ID     string   `arg:"" help:"Public name of the key."`
	Source []string `required:"" help:"Sources that its events may name; the first is for events that name none."`
}

// Run prints the secret once, and the setting with its keyed hash.
func (c keyIngest) Run(a *app) error {
	hasher, err := newHasher(a.config)
	if err != nil {
		return err
	}
	secret := catalog.NewKey()
	setting, err := yaml.Marshal([]IngestKeyConfig{{ID: c.ID, Hash: hasher.Hash(secret), Sources: c.Source}})
	if err != nil {
		return err
	}
	fmt.Fprintln(a.out, secret)
	fmt.Fprintf(a.err, "This is the only time the key is shown. Admit it with this setting and restart "+
		"the collector:\ncollector:\n  ingest_keys:\n%s\n",
		indent(indent(strings.TrimSpace(string(setting)))))
	return nil
}
