package catalog

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"strings"
	"testing"
	"time"

	"tollgate/schemas"
)

// What is written is read back the same.
func TestCSVRoundTrip(t *testing.T) {
	kolkata, err := time.LoadLocation("Asia/Kolkata")
	if err != nil {
		t.Fatal(err)
	}
	from := time.Date(2026, 3, 15, 12, 30, 0, 0, time.UTC)
	customers := []Customer{{ID: "a", Name: `Ann, "the" first`, Zone: kolkata, TaxCategory: "standard", Email: "a@example.com",
		Address:    []string{"1 Road; rear, left", `C:\`, `\;\`, "=1+1", "'s-Hertogenbosch"},
		Attributes: map[string]string{"x": "1", "y": "b=c;d", `n=\;`: `v\=`, "empty": ""}},
		{ID: "b", Parent: "a", Name: "=SUM(A1)", Email: "'=quoted"}, {ID: "-c", Name: "''@d", Address: []string{"-5"}}, {ID: "'"}}
	subscriptions := []Subscription{{ID: "s", Customer: "a", Plan: "default", From: from}, {ID: "t", Customer: "@a", Plan: "default", To: from}}
	credentials := []Credential{{ID: "k", Kind: schemas.CredentialHash, Match: testHasher(t).Hash("x"), Customer: "a", To: from,
		Blocked: true}, {ID: "n", Kind: schemas.CredentialName, Match: "+ann", Source: "kong", Customer: "a", Subject: "web"}}
	for _, found := range []Problems{CheckCustomers(customers), CheckSubscriptions(subscriptions, Default()), CheckCredentials(credentials)} {
		if err := found.Err(); err != nil {
			t.Fatal(err) // what may not be stored need not be read back
		}
	}
	gotCustomers, problems := ReadCustomers("c.csv", csvOf(t, CustomerColumns, len(customers), func(i int) []string { return customers[i].Cells() }))
	same(t, problems, gotCustomers, customers)
	gotSubscriptions, problems := ReadSubscriptions("s.csv",
		csvOf(t, SubscriptionColumns, len(subscriptions), func(i int) []string { return subscriptions[i].Cells() }), Default())
	same(t, problems, gotSubscriptions, subscriptions)
	gotCredentials, hashed, problems := ReadCredentials("k.csv",
		csvOf(t, CredentialColumns, len(credentials), func(i int) []string { return credentials[i].Cells() }), nil)
	same(t, problems, gotCredentials, credentials)
	if hashed != 1 {
		t.Errorf("%d rows came as hashes, want 1", hashed)
	}
}

// csvOf is a CSV file of rows, safe for spreadsheets.
func csvOf(t *testing.T, columns []string, rows int, row func(int) []string) *bytes.Buffer {
	t.Helper()
	var buffer bytes.Buffer
	w := csv.NewWriter(&buffer)
	all := [][]string{columns}
	for i := range rows {
		var cells []string
		for _, cell := range row(i) {
			if cells = append(cells, SafeCell(cell)); cell != "" && strings.ContainsRune("=+@", rune(cells[len(cells)-1][0])) {
				t.Errorf("a spreadsheet runs %q", cell)
			}
		}
		all = append(all, cells)
	}
	if err := w.WriteAll(all); err != nil {
		t.Fatal(err)
	}
	return &buffer
}

// What files cannot say, or nobody can see, is refused before it is stored.
func TestRowsThatFilesCannotSay(t *testing.T) {
	odd := time.Date(2026, 3, 15, 12, 30, 0, 1e6, time.UTC)
	for _, problems := range []Problems{
		CheckCustomers([]Customer{{ID: " a"}}), CheckCustomers([]Customer{{ID: "a", Name: "Ann\u00a0"}}),
		CheckCustomers([]Customer{{ID: "a", Address: []string{""}}}), CheckCustomers([]Customer{{ID: "a", Attributes: map[string]string{"x": "1 "}}}),
		CheckSubscriptions([]Subscription{{ID: "s", Customer: "a", Plan: "default", From: odd}}, Default()),
		CheckCredentials([]Credential{{ID: "n", Kind: schemas.CredentialName, Match: "ann ", Customer: "a"}}),
		CheckCredentials([]Credential{{ID: "n", Kind: schemas.CredentialName, Match: "ann", Customer: "a", To: odd}})} {
		if len(problems) != 1 {
			t.Errorf("%d problems: %v", len(problems), problems.Err())
		}
	}
}

func same(t *testing.T, problems Problems, got, want any) {
	t.Helper()
	if err := problems.Err(); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
		t.Fatalf("got  %+v\nwant %+v", got, want)
	}
}

func TestCSVProblems(t *testing.T) {
	f := func(problems Problems, want ...string) {
		t.Helper()
		text := ""
		if err := problems.Err(); err != nil {
			text = err.Error()
		}
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("got %q, want %q", text, w)
			}
		}
		if strings.Count(text, "\n")+1 != len(want) {
			t.Errorf("%q: want %d problems", text, len(want))
		}
		if strings.Contains(text, "raw-secret") {
			t.Errorf("%q shows a secret", text)
		}
	}
	_, problems := ReadCustomers("c.csv", strings.NewReader("id,zone,nam\na,Mars,x\n\n\"b\nc\",,\na,,"))
	f(problems, `c.csv:1: column "nam" is unknown; did you mean "name"?`, `c.csv:2: time zone "Mars" is unknown`,
		`c.csv:4: customer "b\nc": id has control characters`, `c.csv:6: customer "a" is given twice, first at line 2`)
	_, problems = ReadCustomers("c.csv", strings.NewReader("id,name\na\nb,c\n"))
	f(problems, "c.csv:2: 1 columns, the first line names 2")
	_, problems = ReadCustomers("c.csv", strings.NewReader("id,name\na,\"x\n"))
	f(problems, "c.csv:")
	_, problems = ReadCustomers("c.csv", strings.NewReader(""))
	f(problems, "c.csv:1: no line with the names of columns")
	_, problems = ReadSubscriptions("s.csv", strings.NewReader("customer,plan,from,to\na,defalt,2026-02-30,\n,default,2026-02-02,2026-02-01"), Default())
	f(problems, `s.csv:2: from: "2026-02-30" is no time`, `did you mean "default"?`, "s.csv:3: subscription \"/default\": customer is missing",
		"must be before to")
	_, _, problems = ReadCredentials("k.csv", strings.NewReader("id,kind,match,customer,blocked\n1,key,raw-secret,a,yes\n2,kay,raw-secret,a,\n3,hash,raw-secret,a,\n4,key,,a,"),
		testHasher(t))
	f(problems, `k.csv:2: blocked "yes": want true or false`, `k.csv:3: kind "kay" is unknown; did you mean "key"?`,
		"k.csv:4: credential \"3\": match is no keyed hash", "k.csv:5: match is missing")
	_, _, problems = ReadCredentials("k.csv", strings.NewReader("id,kind,match,customer\n1,key,raw-secret,a\n"), nil)
	f(problems, "k.csv:2: a secret can only be read where a hashing key is configured")
}

func TestParseAgreements(t *testing.T) {
	read := func(text string) (Agreements, Problems) {
		return ParseAgreements(map[string][]byte{"c.yaml": []byte(text)}, Default(), testHasher(t))
	}
	a, problems := read(`
customers:
  - customer: acme
    zone: Europe/London
    attributes: {segment: travel}
    plan: default
    credentials:
      - {id: k1, key: raw-secret, from: 2026-01-01}
      - {id: k2, name: acme, source: kong, blocked: true}
  - customer: beta
    subscriptions: [{id: s, plan: default, from: 2026-01-01, to: 2027-01-01}]
`)
	if err := problems.Err(); err != nil {
		t.Fatal(err)
	}
	if len(a.Customers) != 2 || len(a.Subscriptions) != 2 || len(a.Credentials) != 2 || a.Customers[0].Zone.String() != "Europe/London" ||
		a.Subscriptions[0].ID != "default" || a.Credentials[0].Match != testHasher(t).Hash("raw-secret") || !a.Credentials[1].Blocked {
		t.Fatalf("%+v", a)
	}
	_, problems = read(`
customers:
  - {customer: acme, plan: defalt, credentials: [{id: k, key: raw-secret, name: x}, {id: l, hash: raw-secret}, {id: l, nam: x}]}
  - {customer: acme, zon: UTC}
`)
	err := problems.Err()
	for _, want := range []string{`c.yaml:3:28: subscription "acme/defalt": plan "defalt" is unknown; did you mean "default"?`,
		"want exactly one of key, hash and name, found key and name", "match is no keyed hash", `"nam" is unknown; did you mean "name"?`,
		`c.yaml:4:6: customer "acme" is given twice`, `"zon" is unknown; did you mean "zone"?`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v\nwant %s", err, want)
		}
	}
	if strings.Contains(fmt.Sprint(err), "raw-secret") {
		t.Errorf("%v shows a secret", err)
	}
}
