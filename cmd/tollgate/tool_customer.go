package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
)

// customerCommands list and import who pays, and for what.
type customerCommands struct {
	List          customerList        `cmd:"" help:"List customers."`
	Import        customerImport      `cmd:"" help:"Import customers from CSV: id, name, zone, tax_category, …"`
	Subscriptions subscriptionsList   `cmd:"" help:"List subscriptions."`
	Subscribe     subscribe           `cmd:"" help:"Put a customer on a plan from an instant on."`
	ImportPlans   subscriptionsImport `cmd:"" name:"import-subscriptions" help:"Import subscriptions from CSV: id, customer, plan, from, to."`
	Changes       changesList         `cmd:"" help:"List who changed customers, subscriptions and credentials, and why."`
}

// change is what every change of the agreement says for the audit.
type change struct {
	Reason string `help:"Why, for the audit."`
	By     string `help:"Who changes it; default the user of this machine."`
}

// withStore runs do on the opened catalog store.
func withStore(a *app, do func(*parts, *catalog.Store) error) error {
	p, err := a.open(needClickHouse | needKafka)
	if err != nil {
		return err
	}
	defer a.close(p)
	store, err := openCatalogStore(a, p)
	if err != nil {
		return err
	}
	return do(p, store)
}

type customerList struct {
	ID     []string `arg:"" optional:"" help:"Customers; all where none is named."`
	Output string   `short:"o" enum:"table,json,csv" default:"table" help:"table, json or csv."`
}

// Run lists customers by id.
func (c customerList) Run(a *app) error {
	return withStore(a, func(p *parts, store *catalog.Store) error {
		t := table{columns: []string{"customer", "name", "zone", "tax_category", "parent", "email"}}
		err := store.Customers(a.ctx, catalog.Filter{IDs: c.ID}, func(one catalog.Customer) error {
			zone := ""
			if one.Zone != nil {
				zone = one.Zone.String()
			}
			t.add(one.ID, one.Name, zone, one.TaxCategory, one.Parent, one.Email)
			return nil
		})
		if err != nil {
			return err
		}
		return t.print(a.out, c.Output)
	})
}

type customerImport struct {
	File string `arg:"" help:"CSV file; - is standard input."`
	change
}

// Run stores all rows of the file or none.
func (c customerImport) Run(a *app) error {
	return withFile(a, c.File, func(r io.Reader) error {
		rows, problems := catalog.ReadCustomers(c.File, r)
		if len(problems) > 0 {
			return problems.Err()
		}
		return withStore(a, func(_ *parts, store *catalog.Store) error {
			number, err := store.PutCustomers(a.ctx, rows, c.Reason, who(c.By))
			return told(a, number, len(rows), "customers", err)
		})
	})
}

func withFile(a *app, name string, do func(io.Reader) error) error {
	file, _, err := openInput(a, name)
	if err != nil {
		return err
	}
	return errors.Join(do(file), file.Close())
}

// told says what a change did.
func told(a *app, number uint64, rows int, what string, err error) error {
	if err != nil {
		return err
	}
	fmt.Fprintf(a.out, "change %d: %d %s\n", number, rows, what)
	return nil
}

type subscriptionsList struct {
	Customer []string `arg:"" optional:"" help:"Customers; all where none is named."`
	Output   string   `short:"o" enum:"table,json,csv" default:"table" help:"table, json or csv."`
}

// Run lists subscriptions by customer and beginning.
func (c subscriptionsList) Run(a *app) error {
	return withStore(a, func(_ *parts, store *catalog.Store) error {
		t := table{columns: []string{"subscription", "customer", "plan", "from", "to"}}
		err := store.Subscriptions(a.ctx, catalog.Filter{Customers: c.Customer}, func(s catalog.Subscription) error {
			t.add(s.ID, s.Customer, s.Plan, instant(s.From), instant(s.To))
			return nil
		})
		if err != nil {
			return err
		}
		return t.print(a.out, c.Output)
	})
}

type subscribe struct {
	Customer string `arg:"" help:"Customer."`
	Plan     string `arg:"" help:"Plan of the catalog."`
	From     string `help:"Beginning; default the next minute." placeholder:"INSTANT"`
	To       string `help:"End, not included; open where it is left out." placeholder:"INSTANT"`
	ID       string `help:"Name of the subscription; default CUSTOMER-PLAN." placeholder:"ID"`
	change
}

// Run stores one subscription.
func (c subscribe) Run(a *app) error {
	s := catalog.Subscription{ID: c.ID, Customer: c.Customer, Plan: c.Plan,
		From: time.Now().Truncate(time.Minute).Add(time.Minute)}
	if s.ID == "" {
		s.ID = c.Customer + "-" + c.Plan
	}
	var err error
	if c.From != "" {
		if s.From, err = parseInstant(c.From, time.UTC); err != nil {
			return fmt.Errorf("--from: %w", err)
		}
	}
	if c.To != "" {
		if s.To, err = parseInstant(c.To, time.UTC); err != nil {
			return fmt.Errorf("--to: %w", err)
		}
	}
	return withStore(a, func(_ *parts, store *catalog.Store) error {
		number, err := store.PutSubscriptions(a.ctx, []catalog.Subscription{s}, c.Reason, who(c.By))
		return told(a, number, 1, "subscription", err)
	})
}

type subscriptionsImport struct {
	File string `arg:"" help:"CSV file; - is standard input."`
	change
}

// Run stores all rows of the file or none; plans must be of the catalog in force.
func (c subscriptionsImport) Run(a *app) error {
	return withStore(a, func(_ *parts, store *catalog.Store) error {
		versions, err := store.Versions(a.ctx)
		if err != nil {
			return err
		}
		return withFile(a, c.File, func(r io.Reader) error {
			rows, problems := catalog.ReadSubscriptions(c.File, r, versions.Last().Catalog)
			if len(problems) > 0 {
				return problems.Err()
			}
			number, err := store.PutSubscriptions(a.ctx, rows, c.Reason, who(c.By))
			return told(a, number, len(rows), "subscriptions", err)
		})
	})
}

type changesList struct {
	Limit  int    `default:"100" help:"At most so many, the oldest first."`
	After  uint64 `help:"Only changes after this number."`
	Output string `short:"o" enum:"table,json,csv" default:"table" help:"table, json or csv."`
}

// Run lists the audit of changes.
func (c changesList) Run(a *app) error {
	return withStore(a, func(_ *parts, store *catalog.Store) error {
		list, err := store.Changes(a.ctx, c.After, c.Limit)
		if err != nil {
			return err
		}
		t := table{columns: []string{"change", "state", "kind", "rows", "at", "by", "reason"}}
		for _, one := range list {
			t.add(fmt.Sprint(one.Number), one.State, one.Kind, fmt.Sprint(one.Rows), instant(one.At), one.By, one.Reason)
		}
		return t.print(a.out, c.Output)
	})
}

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
	return withStore(a, func(_ *parts, store *catalog.Store) error {
		secret, credential, err := catalog.NewCredential(hasher, c.ID, c.Customer)
		if err != nil {
			return err
		}
		if _, err := store.PutCredentials(a.ctx, []catalog.Credential{credential}, c.Reason, who(c.By)); err != nil {
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
	return withStore(a, func(_ *parts, store *catalog.Store) error {
		number, err := store.PutCredentials(a.ctx, []catalog.Credential{{ID: c.ID, Customer: c.Customer,
			Kind: schemas.CredentialName, Match: c.Name, Source: c.Source}}, c.Reason, who(c.By))
		return told(a, number, 1, "credential", err)
	})
}

type keyList struct {
	Customer []string `arg:"" optional:"" help:"Customers; all where none is named."`
	Output   string   `short:"o" enum:"table,json,csv" default:"table" help:"table, json or csv."`
}

// Run lists credentials by id; of a hash only its beginning is shown.
func (c keyList) Run(a *app) error {
	return withStore(a, func(_ *parts, store *catalog.Store) error {
		t := table{columns: []string{"credential", "kind", "match", "source", "customer", "from", "to", "blocked"}}
		err := store.Credentials(a.ctx, catalog.Filter{Customers: c.Customer}, func(one catalog.Credential) error {
			kind, match := "name", one.Match
			if one.Kind == schemas.CredentialHash {
				kind, match = "hash", shorten(one.Match, 20)
			}
			t.add(one.ID, kind, match, one.Source, one.Customer, instant(one.From), instant(one.To),
				strings.ToLower(fmt.Sprint(one.Blocked)))
			return nil
		})
		if err != nil {
			return err
		}
		return t.print(a.out, c.Output)
	})
}

type keyBlock struct {
	ID []string `arg:"" help:"Credentials."`
	change
}

// Run blocks all that are named, or none where one is unknown.
func (c keyBlock) Run(a *app) error {
	return withStore(a, func(_ *parts, store *catalog.Store) error {
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
			return fmt.Errorf("%d of %d credentials are known: %s; `tollgate key list` shows them", len(rows), len(c.ID),
				strings.Join(c.ID, ", "))
		}
		number, err := store.PutCredentials(a.ctx, rows, c.Reason, who(c.By))
		return told(a, number, len(rows), "credentials blocked", err)
	})
}

type keyImport struct {
	File string `arg:"" help:"CSV file; - is standard input."`
	change
}

// Run stores all rows of the file or none.
func (c keyImport) Run(a *app) error {
	hasher, err := newHasher(a.config)
	if err != nil {
		return err
	}
	return withFile(a, c.File, func(r io.Reader) error {
		rows, problems := catalog.ReadCredentials(c.File, r, hasher)
		if len(problems) > 0 {
			return problems.Err()
		}
		return withStore(a, func(_ *parts, store *catalog.Store) error {
			number, err := store.PutCredentials(a.ctx, rows, c.Reason, who(c.By))
			return told(a, number, len(rows), "credentials", err)
		})
	})
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
	fmt.Fprintf(a.err, "This is the only time the key is shown. Admit it with this setting and restart the collector:\n"+
		"collector:\n  ingest_keys:\n%s\n", indent(indent(strings.TrimSpace(string(setting)))))
	return nil
}
