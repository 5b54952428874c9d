package catalog

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
)

//go:embed default.yaml
var defaultYAML []byte

// Default is the catalog in force while none was ever applied: everything is one product, calls cost 0.001
// EUR.
var Default = sync.OnceValue(func() *Catalog {
	c, problems := Parse(DefaultFiles())
	if len(problems) > 0 {
		panic("BUG: the built-in catalog is wrong: " + problems.Err().Error())
	}
	return c
})

// DefaultFiles are the files of Default.
func DefaultFiles() map[string][]byte {
	return map[string][]byte{"default.yaml": slices.Clone(defaultYAML)}
}

// Hash names a catalog: the hex SHA-256 of its canonical form. Comments, the order of files and of products,
// meters and plans, and how a number or a short form is written do not change it.
func Hash(c *Catalog) string {
	sum := sha256.Sum256(canonical(c))
	return hex.EncodeToString(sum[:])
}

// canonical is JSON without members that have their zero value, so that a field which a later program adds
// does not change the hash of a catalog that does not use it.
func canonical(c *Catalog) []byte {
	sorted := *c
	sorted.Products = slices.Clone(c.Products)
	slices.SortFunc(sorted.Products, func(a, b Product) int { return cmp.Compare(a.ID, b.ID) })
	sorted.Meters = slices.Clone(c.Meters)
	slices.SortFunc(sorted.Meters, func(a, b Meter) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), a.Version-b.Version)
	})
	sorted.Plans = slices.Clone(c.Plans)
	slices.SortFunc(sorted.Plans, func(a, b Plan) int { return cmp.Compare(a.ID, b.ID) })
	zone := ""
	if c.Issuer.Zone != nil {
		zone = c.Issuer.Zone.String()
	}
	return canonicalJSON(map[string]any{"catalog": sorted, "zone": zone})
}

func canonicalJSON(value any) []byte {
	text, err := json.Marshal(value)
	if err != nil {
		panic(fmt.Sprintf("BUG: canonical form: %v", err))
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var tree any
	if err := decoder.Decode(&tree); err != nil {
		panic(fmt.Sprintf("BUG: canonical form: %v", err))
	}
	text, err = json.Marshal(prune(tree)) // maps are written in the order of their keys
	if err != nil {
		panic(fmt.Sprintf("BUG: canonical form: %v", err))
	}
	return text
}

// prune drops members of objects that say nothing; items of lists all stay, because their places mean
// something.
func prune(tree any) any {
	switch v := tree.(type) {
	case map[string]any:
		for key, member := range v {
			member = prune(member)
			if zero(member) {
				delete(v, key)
			} else {
				v[key] = member
			}
		}
	case []any:
		for i := range v {
			v[i] = prune(v[i])
		}
	}
	return tree
}

func zero(member any) bool {
	switch v := member.(type) {
	case nil:
		return true
	case string:
		return v == "" || v == "0" || v == "0001-01-01T00:00:00Z"
	case json.Number:
		return v == "0"
	case bool:
		return !v
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return false
}
