package catalog

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"tollgate/schemas"
)

// template is a parsed route template.
type template struct {
	segments []segment
	rest     bool // ends in /**
}

// segment is one part between slashes: a literal, or a parameter with what stands before and after it.
type segment struct {
	literal        string
	parameter      bool
	prefix, suffix string
}

const maxSegments = 32

// parseTemplate reads "/v1/maps/{z}/{x}/{y}.png" or "/files/**".
func parseTemplate(text string) (template, error) {
	var t template
	fail := func(format string, args ...any) (template, error) {
		return template{}, fmt.Errorf("route %q: "+format, append([]any{text}, args...)...)
	}
	if !strings.HasPrefix(text, "/") {
		return fail("must begin with / (or be written METHOD /path)")
	}
	if strings.ContainsAny(text, "?# \t") {
		return fail("must not have a query, a fragment or blanks")
	}
	parts := strings.Split(text, "/")
	for i, part := range parts {
		switch {
		case part == "":
			if i > 0 && i < len(parts)-1 {
				return fail("has an empty part between two slashes")
			}
		case part == "**":
			if i != len(parts)-1 {
				return fail("** matches the rest and must be the last part")
			}
			t.rest = true
		default:
			s, err := parseSegment(part)
			if err != nil {
				return fail("%w", err)
			}
			t.segments = append(t.segments, s)
		}
	}
	if len(t.segments) > maxSegments {
		return fail("has %d parts, at most %d are matched", len(t.segments), maxSegments)
	}
	return t, nil
}

func parseSegment(part string) (segment, error) {
	open := strings.IndexByte(part, '{')
	if open < 0 {
		if strings.ContainsAny(part, "}*") {
			return segment{}, fmt.Errorf("part %q: a parameter is written {name}, the rest of a path **",
				part)
		}
		return segment{literal: part}, nil
	}
	length := strings.IndexByte(part[open:], '}')
	if length < 2 {
		return segment{}, fmt.Errorf("part %q: a parameter is written {name}", part)
	}
	s := segment{parameter: true, prefix: part[:open], suffix: part[open+length+1:]}
	if strings.ContainsAny(s.prefix+s.suffix, "{}*") {
		return segment{}, errors.New("a part has at most one parameter")
	}
	return s, nil
}

// shape is the template without the names of its parameters: equal shapes match the same paths.
func (t template) shape() string {
	var b strings.Builder
	for _, s := range t.segments {
		b.WriteByte('/')
		if s.parameter {
			b.WriteString(s.prefix + "{}" + s.suffix)
		} else {
			b.WriteString(s.literal)
		}
	}
	if t.rest {
		b.WriteString("/**")
	}
	return b.String()
}

// router finds the route of a request: by the gateway's own name for it, else by host and path. It is
// immutable.
type router struct {
	gateway map[string]int32 // name of a route or service → index of its route
	exact   map[string]*branch
	suffix  []hostSuffix // longest first
	any     *branch
	routes  []routed
}

type hostSuffix struct {
	suffix string // ".example.com"
	root   *branch
}

type routed struct{ product, name, version string }

// branch is a place in the tree of path parts.
type branch struct {
	literal map[string]*branch
	mixed   []mixedBranch // parameters with a prefix or suffix, most text first
	param   *branch
	leaves  []leaf // routes that end here
	rest    []leaf // routes that end here with **
}

type mixedBranch struct {
	prefix, suffix string
	next           *branch
}

// leaf is a route that ends at a branch, for its methods; those with methods come first.
type leaf struct {
	methods []string
	route   int32
}

func newRouter(products []Product) *router {
	r := &router{gateway: map[string]int32{}, exact: map[string]*branch{}, any: &branch{}}
	for _, product := range products {
		var roots []*branch
		for _, host := range product.Hosts {
			roots = append(roots, r.root(host))
		}
		if len(roots) == 0 {
			roots = append(roots, r.any)
		}
		for _, route := range product.Routes {
			t, err := parseTemplate(route.Template)
			if err != nil {
				panic("BUG: catalog was not checked: " + err.Error())
			}
			name := route.Name
			if name == "" {
				name = route.Template
			}
			index := int32(len(r.routes))
			r.routes = append(r.routes, routed{product.ID, name, route.Version})
			for _, g := range route.Gateway {
				r.gateway[g] = index
			}
			for _, root := range roots {
				root.insert(t, leaf{route.Methods, index})
			}
		}
	}
	slices.SortFunc(r.suffix, func(a, b hostSuffix) int { return len(b.suffix) - len(a.suffix) })
	return r
}

func (r *router) root(host string) *branch {
	host = strings.ToLower(host)
	suffix, wild := strings.CutPrefix(host, "*")
	switch {
	case host == "":
		return r.any
	case wild:
		for _, s := range r.suffix {
			if s.suffix == suffix {
				return s.root
			}
		}
		r.suffix = append(r.suffix, hostSuffix{suffix, &branch{}})
		return r.suffix[len(r.suffix)-1].root
	case r.exact[host] == nil:
		r.exact[host] = &branch{}
	}
	return r.exact[host]
}

func (b *branch) insert(t template, l leaf) {
	for _, s := range t.segments {
		b = b.child(s)
	}
	into := &b.leaves
	if t.rest {
		into = &b.rest
	}
	*into = append(*into, l)
	slices.SortStableFunc(*into,
		func(x, y leaf) int { return min(1, len(y.methods)) - min(1, len(x.methods)) })
}

func (b *branch) child(s segment) *branch {
	switch {
	case !s.parameter:
		if b.literal == nil {
			b.literal = map[string]*branch{}
		}
		if b.literal[s.literal] == nil {
			b.literal[s.literal] = &branch{}
		}
		return b.literal[s.literal]
	case s.prefix == "" && s.suffix == "":
		if b.param == nil {
			b.param = &branch{}
		}
		return b.param
	}
	for _, m := range b.mixed {
		if m.prefix == s.prefix && m.suffix == s.suffix {
			return m.next
		}
	}
	next := &branch{}
	b.mixed = append(b.mixed, mixedBranch{s.prefix, s.suffix, next})
	slices.SortStableFunc(b.mixed, func(x, y mixedBranch) int {
		return len(y.prefix) + len(y.suffix) - len(x.prefix) - len(x.suffix)
	})
	return next
}

// match is the index of the route, or −1. Rules, in this order: the gateway's name of the route, then that of
// the service; then the most specific host that has a matching path; in a path, from the left, a literal
// before a parameter with text around it, before a parameter, before **; a route that names the method before
// one for any.
func (r *router) match(e *schemas.AccessEvent) int32 {
	if len(r.gateway) > 0 {
		for _, name := range [...]string{e.Route, e.Service} {
			if name == "" {
				continue
			}
			if i, ok := r.gateway[name]; ok {
				return i
			}
		}
	}
	if len(r.exact) > 0 || len(r.suffix) > 0 {
		host := bareHost(e.Host)
		if root := r.exact[host]; root != nil {
			if i := root.match(e.Path, e.Method, 0); i >= 0 {
				return i
			}
		}
		for i := range r.suffix {
			if strings.HasSuffix(host, r.suffix[i].suffix) && len(host) > len(r.suffix[i].suffix) {
				if i := r.suffix[i].root.match(e.Path, e.Method, 0); i >= 0 {
					return i
				}
			}
		}
	}
	return r.any.match(e.Path, e.Method, 0)
}

// bareHost is host in lower case without its port.
func bareHost(host string) string {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.Contains(host[i:], "]") {
		host = host[:i]
	}
	return strings.ToLower(host) // returns its argument where nothing changes
}

// match walks path from the left; empty parts are skipped, as gateways merge slashes. depth bounds a path of
// slashes and letters sent to make the walk long.
func (b *branch) match(path, method string, depth int) int32 {
	for len(path) > 0 && path[0] == '/' {
		path = path[1:]
	}
	if path == "" {
		if i := pick(b.leaves, method); i >= 0 {
			return i
		}
		return pick(b.rest, method)
	}
	if depth < maxSegments {
		part, rest := path, ""
		if i := strings.IndexByte(path, '/'); i >= 0 {
			part, rest = path[:i], path[i:]
		}
		if next := b.literal[part]; next != nil {
			if i := next.match(rest, method, depth+1); i >= 0 {
				return i
			}
		}
		for i := range b.mixed {
			m := &b.mixed[i]
			if len(part) > len(m.prefix)+len(m.suffix) && strings.HasPrefix(part, m.prefix) &&
				strings.HasSuffix(part, m.suffix) {
				if i := m.next.match(rest, method, depth+1); i >= 0 {
					return i
				}
			}
		}
		if b.param != nil {
			if i := b.param.match(rest, method, depth+1); i >= 0 {
				return i
			}
		}
	}
	return pick(b.rest, method)
}

func pick(leaves []leaf, method string) int32 {
	for i := range leaves {
		if len(leaves[i].methods) == 0 {
			return leaves[i].route
		}
		for _, m := range leaves[i].methods {
			if m == method {
				return leaves[i].route
			}
		}
	}
	return -1
}
