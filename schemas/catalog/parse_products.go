package catalog

import (
	"regexp"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// routeAt is a route and where it stands, for clashes between routes of any products.
type routeAt struct {
	product string
	hosts   []string
	route   Route
	place
}

var hostPattern = regexp.MustCompile(
	`^(\*\.)?[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*$`)

func (p *parser) product(item place) {
	o, ok := p.object(item, "product")
	if !ok {
		return
	}
	product := Product{ID: p.identifier(o, "product", "the product's id"), Name: o.text("name")}
	if first, twice := p.productAt[product.ID]; twice && product.ID != "" {
		p.wrong(o.at("product"), "product %q is given twice, first in %s line %d", product.ID,
			first.file, first.node.Line)
	}
	p.productAt[product.ID] = o.at("product")
	for _, host := range o.texts("hosts") {
		host = strings.ToLower(host)
		if !hostPattern.MatchString(host) {
			p.wrong(o.at("hosts"),
				"host %q: want api.example.com or *.example.com, without scheme and port", host)
		}
		product.Hosts = append(product.Hosts, host)
	}
	listed := o.list("routes")
	for _, at := range listed {
		route, ok := p.route(at)
		if !ok {
			continue
		}
		product.Routes = append(product.Routes, route)
		p.routes = append(p.routes, routeAt{product.ID, product.Hosts, route, at})
	}
	if len(listed) == 0 {
		route := Route{Template: "/**", Name: "/**"}
		product.Routes = []Route{route}
		p.routes = append(p.routes, routeAt{product.ID, product.Hosts, route, o.at("product")})
	}
	o.done("product")
	p.catalog.Products = append(p.catalog.Products, product)
}

var methodPattern = regexp.MustCompile(`^[A-Z][A-Z-]{0,19}$`)

// route reads the short form "/v1/search", "GET /v1/search" or "GET|POST /v1/search", or the mapping.
func (p *parser) route(at place) (route Route, ok bool) {
	at, ok = p.resolve(at)
	if !ok {
		return route, false
	}
	if at.node.Kind == yaml.ScalarNode {
		text := p.text(at, "route")
		if methods, template, found := strings.Cut(text, " "); found {
			route.Methods, text = strings.Split(methods, "|"), strings.TrimSpace(template)
		}
		route.Template = text
	} else {
		o, ok := p.object(at, "route")
		if !ok {
			return route, false
		}
		route.Template = o.need("route", "the path template, such as /v1/maps/{z}/{x}/{y}")
		route.Methods = o.texts("methods")
		route.Version = o.text("version")
		route.Gateway = o.texts("gateway")
		route.Name = o.text("name")
		o.done("route")
	}
	slices.Sort(route.Methods)
	for _, method := range route.Methods {
		if !methodPattern.MatchString(method) {
			p.wrong(at, "method %q: want capital letters such as GET", method)
		}
	}
	if _, err := parseTemplate(route.Template); err != nil {
		p.wrong(at, "%v", err)
		return route, false
	}
	if route.Name == "" {
		route.Name = route.Template
	}
	return route, true
}

// clashes reports routes that match the same requests equally well: which of them an event belongs to would
// be chance.
func (p *parser) clashes() {
	seen := map[string][]routeAt{}
	gateway := map[string]routeAt{}
	for _, r := range p.routes {
		template, err := parseTemplate(r.route.Template)
		if err != nil {
			continue // reported where it was read
		}
		hosts := r.hosts
		if len(hosts) == 0 {
			hosts = []string{""}
		}
		for _, host := range hosts {
			key := host + " " + template.shape()
			for _, other := range seen[key] {
				if len(r.route.Methods) == 0 && len(other.route.Methods) == 0 ||
					overlap(r.route.Methods, other.route.Methods) {
					p.wrong(r.place,
						"route %s of product %s matches the same requests as %s of product %s (%s line %d)",
						r.route.Template, r.product, other.route.Template, other.product, other.file,
						other.node.Line)
					break
				}
			}
			seen[key] = append(seen[key], r)
		}
		for _, name := range r.route.Gateway {
			if other, twice := gateway[name]; twice {
				p.wrong(r.place, "gateway name %q is also that of route %s of product %s (%s line %d)",
					name, other.route.Template, other.product, other.file, other.node.Line)
				continue
			}
			gateway[name] = r
		}
	}
}

func overlap(a, b []string) bool {
	return slices.ContainsFunc(a, func(m string) bool { return slices.Contains(b, m) })
}
