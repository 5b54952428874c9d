package demo

import _ "embed"

//go:embed catalog.yaml
var catalogYAML []byte

// Catalog is what the demo's API product sells, as files of a catalog.
func Catalog() map[string][]byte { return map[string][]byte{"catalog.yaml": catalogYAML} }
