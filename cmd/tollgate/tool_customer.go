package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"tollgate/schemas/catalog"
)

// customerCommands list and import who pays, and for what.
type customerCommands struct {
	List          customerList        `cmd:"" help:"List customers."`
	Add           customerAdd         `cmd:"" help:"Register one customer, or write an existing one anew."`
	Import        customerImport      `cmd:"" help:"Import customers from CSV."`
	Subscriptions subscriptionsList   `cmd:"" help:"List subscriptions."`
	Subscribe     subscribe           `cmd:"" help:"Put a customer on a plan from an instant on."`
	Unsubscribe   unsubscribe         `cmd:"" help:"End a subscription at an instant."`
	ImportPlans   subscriptionsImport `cmd:"" name:"import-subscriptions" help:"Import subscriptions from CSV."`
	Changes       changesList         `cmd:"" help:"List who changed customers, subscriptions and credentials, and why."`
}

// change is what every change of the agreement says for the audit.
type change struct {
	Reason string `help:"Why, for the audit."`
	By     string `help:"Who changes it; default the user of this machine."`
}

type customerList struct {
	ID []string `arg:"" optional:"" help:"Customers; all where none is named."`
	form
}

// Run lists customers by id; as CSV it is what customer import reads.
func (c customerList) Run(a *app) error {
	return a.withCatalog(func(store *catalog.Store) error {
		t := table{columns: catalog.CustomerColumns,
			none: nobody(c.ID) + "; `tollgate customer add ID` registers one, `tollgate customer " +
				"import FILE` many"}
		err := store.Customers(a.ctx, catalog.Filter{IDs: c.ID}, func(one catalog.Customer) error {
			t.add(one.Cells()...)
			return nil
		})
		if err != nil {
			return err
		}
		return a.show(&t, c.Output)
	})
}

// nobody says that no customer is there, of those that were asked for.
func nobody(ids []string) string {
	if len(ids) == 0 {
		return "no customer is registered"
	}
	return "not registered: " + strings.Join(ids, ", ")
}

type customerAdd struct {
	ID          string            `arg:"" help:"The customer's id, as it stands in usage and on invoices."`
	Name        string            `help:"Name on invoices."`
	Zone        string            `help:"Time zone of its periods and limits, such as Europe/Berlin; default the issuer's."`
	TaxCategory string            `help:"One of the catalog's tax categories." placeholder:"CATEGORY"`
	Email       string            `help:"Where invoices go." placeholder:"ADDRESS"`
	Parent      string            `help:"Customer whose part it is." placeholder:"ID"`
	Address     []string          `sep:"none" help:"Line of the postal address; repeat for more." placeholder:"LINE"`
	Attributes  map[string]string `name:"attribute" mapsep:"none" help:"Anything else worth keeping; repeat for more." placeholder:"NAME=VALUE"`
	Plan        string            `help:"Subscribe it to this plan as well, from the next minute on."`
	change
}

// Run stores one customer; an earlier row of the id is replaced whole.
func (c customerAdd) Run(a *app) error {
	one := catalog.Customer{ID: c.ID, Name: c.Name, TaxCategory: c.TaxCategory, Email: c.Email,
		Parent: c.Parent, Address: c.Address, Attributes: c.Attributes}
	if c.Zone != "" {
		zone, err := time.LoadLocation(c.Zone)
		if err != nil || c.Zone == "Local" {
			return fmt.Errorf("--zone %q: want an IANA name such as Europe/Berlin", c.Zone)
		}
		one.Zone = zone
	}
	return a.withCatalog(func(store *catalog.Store) error {
		// before anything is stored: a customer without the plan that was asked for is half a change
		if c.Plan != "" {
			versions, err := store.Versions(a.ctx)
			if err != nil {
				return err
			}
			if _, ok := versions.Last().Catalog.Plan(c.Plan); !ok {
				return fmt.Errorf("--plan %q is not in the catalog; it has %s", c.Plan,
					strings.Join(planNames(versions.Last().Catalog), ", "))
			}
		}
		number, err := store.PutCustomers(a.ctx, []catalog.Customer{one}, c.Reason, who(c.By))
		if err := told(a, number, 1, "customer", err); err != nil || c.Plan == "" {
			return err
		}
		number, err = store.PutSubscriptions(a.ctx,
			[]catalog.Subscription{{ID: c.ID + "-" + c.Plan, Customer: c.ID,
				Plan: c.Plan, From: nextMinute()}}, c.Reason, who(c.By))
		return told(a, number, 1, "subscription", err)
	})
}

func planNames(c *catalog.Catalog) (names []string) {
	for i := range c.Plans {
		names = append(names, c.Plans[i].ID)
	}
	return names
}

// nextMinute is when a change that says no instant takes effect (law 6).
func nextMinute() time.Time { return time.Now().Truncate(time.Minute).Add(time.Minute) }

type customerImport struct {
	File string `arg:"" help:"CSV with a first line of some of: ${customer_columns}; - is standard input."`
	change
}

// Run stores all rows of the file or none.
func (c customerImport) Run(a *app) error {
	return withFile(a, c.File, func(r io.Reader) error {
		rows, problems := catalog.ReadCustomers(c.File, r)
		if len(problems) > 0 {
			return problems.Err()
		}
		if len(rows) == 0 {
			return noRows(a, c.File)
		}
		return a.withCatalog(func(store *catalog.Store) error {
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

// noRows says that a file of rows has none, which is no fault: it is how an empty list is exported.
func noRows(a *app, file string) error {
	_, err := fmt.Fprintf(a.out, "%s has no rows; nothing is changed\n", file)
	return err
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
	form
}

// Run lists subscriptions by customer and beginning; as CSV it is what import-subscriptions reads.
func (c subscriptionsList) Run(a *app) error {
	return a.withCatalog(func(store *catalog.Store) error {
		t := table{columns: catalog.SubscriptionColumns,
			none: "no subscription" + ofCustomers(c.Customer) + ": who has none is on the catalog's " +
				"default_plan, if it names one; `tollgate customer subscribe CUSTOMER PLAN` adds one"}
		err := store.Subscriptions(a.ctx, catalog.Filter{Customers: c.Customer},
			func(s catalog.Subscription) error {
				t.add(s.Cells()...)
				return nil
			})
		if err != nil {
			return err
		}
		return a.show(&t, c.Output)
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
	s := catalog.Subscription{ID: c.ID, Customer: c.Customer, Plan: c.Plan, From: nextMinute()}
	if s.ID == "" {
		s.ID = c.Customer + "-" + c.Plan
	}
	if err := setInstants(&s.From, c.From, &s.To, c.To); err != nil {
		return err
	}
	return a.withCatalog(func(store *catalog.Store) error {
		number, err := store.PutSubscriptions(a.ctx, []catalog.Subscription{s}, c.Reason, who(c.By))
		return told(a, number, 1, "subscription", err)
	})
}

type unsubscribe struct {
	Customer string `arg:"" help:"Customer."`
	ID       string `arg:"" help:"Subscription, as tollgate customer subscriptions names it."`
	To       string `help:"End, not included; default the next minute." placeholder:"INSTANT"`
	change
}

// Run stores the subscription with an end; what was used until then is billed by it.
func (c unsubscribe) Run(a *app) (err error) {
	end := nextMinute()
	if c.To != "" {
		if end, err = parseInstant(c.To, time.UTC); err != nil {
			return fmt.Errorf("--to: %w", err)
		}
	}
	return a.withCatalog(func(store *catalog.Store) error {
		var rows []catalog.Subscription
		err := store.Subscriptions(a.ctx, catalog.Filter{Customers: []string{c.Customer}},
			func(s catalog.Subscription) error {
				if s.ID == c.ID {
					s.To = end
					rows = append(rows, s)
				}
				return nil
			})
		if err != nil {
			return err
		}
		if len(rows) == 0 {
			return fmt.Errorf("customer %q has no subscription %q; `tollgate customer "+
				"subscriptions %s` lists them", c.Customer, c.ID, c.Customer)
		}
		number, err := store.PutSubscriptions(a.ctx, rows, c.Reason, who(c.By))
		return told(a, number, len(rows), "subscription ended", err)
	})
}

type subscriptionsImport struct {
	File string `arg:"" help:"CSV with a first line of some of: ${subscription_columns}; - is standard input."`
	change
}

// Run stores all rows of the file or none; plans must be of the catalog in force.
func (c subscriptionsImport) Run(a *app) error {
	return a.withCatalog(func(store *catalog.Store) error {
		versions, err := store.Versions(a.ctx)
		if err != nil {
			return err
		}
		return withFile(a, c.File, func(r io.Reader) error {
			rows, problems := catalog.ReadSubscriptions(c.File, r, versions.Last().Catalog)
			if len(problems) > 0 {
				return problems.Err()
			}
			if len(rows) == 0 {
				return noRows(a, c.File)
			}
			number, err := store.PutSubscriptions(a.ctx, rows, c.Reason, who(c.By))
			return told(a, number, len(rows), "subscriptions", err)
		})
	})
}

type changesList struct {
	Limit atMost `default:"100" help:"At most so many, the oldest first."`
	After uint64 `help:"Only changes after this number."`
	form
}

// Run lists the audit of changes.
func (c changesList) Run(a *app) error {
	return a.withCatalog(func(store *catalog.Store) error {
		list, err := store.Changes(a.ctx, c.After, int(c.Limit))
		if err != nil {
			return err
		}
		t := table{columns: []string{"change", "state", "kind", "rows", "at", "by", "reason"},
			most: c.Limit,
			none: fmt.Sprintf("no change of customers, subscriptions or credentials after number %d",
				c.After)}
		for _, one := range list {
			t.add(fmt.Sprint(one.Number), one.State, one.Kind, fmt.Sprint(one.Rows), instant(one.At),
				one.By, one.Reason)
		}
		return a.show(&t, c.Output)
	})
}
