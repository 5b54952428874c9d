package catalog

import (
	"strings"
	"testing"

	"tollgate/schemas"
)

const routesYAML = `
products:
  - product: shop
    hosts: [api.example.com]
    routes:
      - /orders
      - /orders/{id}
      - {route: "/orders/{id}", methods: [DELETE], name: delete order}
      - /orders/new
      - /orders/{id}/items/{item}
      - {route: "/orders/{id}.pdf", version: v3}
      - {route: "/orders/latest/**", gateway: [latest-route]}
      - /files/**
  - product: wild
    hosts: ["*.example.com"]
    routes: [/orders, "/deep/{a}/{b}"]
  - product: wilder
    hosts: ["*.eu.example.com"]
    routes: [/orders]
  - product: any
    routes: ["/orders/{id}", {route: /anywhere, gateway: [svc]}]
`

func TestRoutes(t *testing.T) {
	s := NewSnapshot(Contents{Versions: []Version{{Seq: 1, Catalog: mustParse(t, routesYAML)}}})
	f := func(request, want string) {
		t.Helper()
		parts := strings.SplitN(request, " ", 3)
		e := schemas.AccessEvent{Method: parts[0], Host: parts[1], Path: parts[2]}
		product, route, version := s.Route(&e)
		if got := strings.TrimSpace(product + " " + route + " " + version); got != want {
			t.Errorf("%s: %q, want %q", request, got, want)
		}
	}
	f("GET api.example.com /orders", "shop /orders")
	f("GET api.example.com /orders/", "shop /orders")
	f("GET api.example.com //orders", "shop /orders")
	f("GET API.Example.Com:8443 /orders", "shop /orders")
	f("GET api.example.com /Orders", "")
	f("GET api.example.com /orders/7", "shop /orders/{id}")
	f("DELETE api.example.com /orders/7", "shop delete order")
	f("GET api.example.com /orders/new", "shop /orders/new")
	f("GET api.example.com /orders/7.pdf", "shop /orders/{id}.pdf v3")
	f("GET api.example.com /orders/.pdf", "shop /orders/{id}") // a parameter is never empty
	f("GET api.example.com /orders/7/items/8", "shop /orders/{id}/items/{item}")
	f("GET api.example.com /orders/7/items", "")
	f("GET api.example.com /orders/latest", "shop /orders/latest/**")
	f("GET api.example.com /orders/latest/a/b/c", "shop /orders/latest/**")
	f("GET api.example.com /orders/latest/items/8", "shop /orders/latest/**")
	f("GET api.example.com /files", "shop /files/**")
	f("GET api.example.com /files/"+strings.Repeat("a/", 500), "shop /files/**")
	f("GET www.example.com /orders", "wild /orders")
	f("GET example.com /orders", "") // *. asks for at least one label
	f("GET a.eu.example.com /orders", "wilder /orders")
	f("GET a.eu.example.com /deep/1/2", "wild /deep/{a}/{b}") // the more specific host has no such path
	f("GET other.org /orders/7", "any /orders/{id}")
	f("GET [::1]:80 /orders/7", "any /orders/{id}")
	f("GET www.example.com /orders/7", "any /orders/{id}")
	f("GET  ", "")
	gateway := schemas.AccessEvent{Method: "GET", Host: "x", Path: "/nowhere", Service: "svc"}
	if product, route, _ := s.Route(&gateway); product != "any" || route != "/anywhere" {
		t.Errorf("by service: %s %s", product, route)
	}
	gateway.Route = "latest-route"
	if product, _, _ := s.Route(&gateway); product != "shop" {
		t.Errorf("by route before service: %s", product)
	}
}

func TestDefaultMatchesEverything(t *testing.T) {
	s := NewSnapshot(Contents{})
	for _, path := range []string{"", "/", "*", "-", "/a/b", "http://x/y", "\x16\x03", strings.Repeat("/a", 4000)} {
		if product, route, _ := s.Route(&schemas.AccessEvent{Path: path}); product != "default" || route != "/**" {
			t.Errorf("%.20q: %q %q", path, product, route)
		}
	}
}

func TestRouteDoesNotAllocate(t *testing.T) {
	s := NewSnapshot(Contents{Versions: []Version{{Seq: 1, Catalog: exampleCatalog(t)}}})
	e := &schemas.AccessEvent{Method: "GET", Host: "tiles.wayfare.example:443", Path: "/v1/tiles/7/64/42.png"}
	if n := testing.AllocsPerRun(100, func() { s.Route(e) }); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func BenchmarkRoute(b *testing.B) {
	s := NewSnapshot(Contents{Versions: []Version{{Seq: 1, Catalog: exampleCatalog(b)}}})
	e := &schemas.AccessEvent{Method: "GET", Host: "api.wayfare.example", Path: "/v2/places/8f3a"}
	b.ReportAllocs()
	for b.Loop() {
		if product, _, _ := s.Route(e); product != "search" {
			b.Fatal(product)
		}
	}
}
