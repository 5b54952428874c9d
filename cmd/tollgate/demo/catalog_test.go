package demo

import (
	"testing"

	"tollgate/schemas/catalog"
)

// TestCatalogIsSound: what the demo sells passes the same check as anybody's catalog.
func TestCatalogIsSound(t *testing.T) {
	c, problems := catalog.Parse(Catalog())
	for _, problem := range problems {
		t.Error(problem)
	}
	if len(c.Plans) != 4 || len(c.Meters) != 5 {
		t.Errorf("%d plans and %d meters", len(c.Plans), len(c.Meters))
	}
}
