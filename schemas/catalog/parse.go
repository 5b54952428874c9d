package catalog

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/bojanz/currency"

	"tollgate/schemas"
)

// Limits of a catalog's files: what a person writes stays far below, and roles hold all of it in memory.
const (
	maxFileBytes = 4 << 20
	maxFiles     = 1000
)

// Parse reads a catalog from its YAML files (name → text) and reports everything that is wrong at once. The
// sections of the files are put together: products may be in one file and plans in another, but issuer and
// default_plan may be given once only. The catalog is usable only when there are no problems.
func Parse(files map[string][]byte) (*Catalog, Problems) {
	p := &parser{catalog: &Catalog{}, zone: time.UTC}
	p.reader.problems = &p.problems
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	sections := p.sections(names, files)
	p.issuers(sections["issuer"])
	each(p, sections["products"], "products", p.product)
	p.clashes()
	each(p, sections["meters"], "meters", p.meter)
	p.meterVersions()
	each(p, sections["plans"], "plans", p.plan)
	p.defaultPlan(sections["default_plan"])
	p.detectors(sections["detectors"])
	each(p, sections["webhooks"], "webhooks", p.webhook)
	p.problems.sort()
	return p.catalog, p.problems
}

// Load reads the files that Parse takes: one YAML file, or every *.yaml and *.yml of a folder (not below it).
func Load(file string) (map[string][]byte, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("read catalog: %w", err)
	}
	if !info.IsDir() {
		return LoadFS(os.DirFS(filepath.Dir(file)), filepath.Base(file))
	}
	return LoadFS(os.DirFS(file), "*.yaml", "*.yml")
}

// LoadFS reads the files of a file system that match one of the patterns.
func LoadFS(source fs.FS, patterns ...string) (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, pattern := range patterns {
		names, err := fs.Glob(source, pattern)
		if err != nil {
			return nil, fmt.Errorf("read catalog: %w", err)
		}
		for _, name := range names {
			info, err := fs.Stat(source, name)
			if err != nil {
				return nil, fmt.Errorf("read catalog: %w", err)
			}
			if info.Size() > maxFileBytes {
				return nil, fmt.Errorf("read catalog: %s has %d bytes, at most %d are read",
					name, info.Size(), maxFileBytes)
			}
			if files[path.Base(name)], err = fs.ReadFile(source, name); err != nil {
				return nil, fmt.Errorf("read catalog: %w", err)
			}
		}
	}
	if len(files) == 0 {
		return nil, errors.New("read catalog: no *.yaml file there")
	}
	if len(files) > maxFiles {
		return nil, fmt.Errorf("read catalog: %d files, at most %d are read", len(files), maxFiles)
	}
	return files, nil
}

// parser is one run of Parse: the catalog so far, and where its parts stand.
type parser struct {
	reader
	catalog  *Catalog
	problems Problems
	zone     *time.Location // of the issuer, for plain dates

	productAt map[string]place
	routes    []routeAt
	meterAt   []place // beside catalog.Meters
	planAt    map[string]place
}

var sectionNames = []string{"issuer", "products", "meters", "plans", "default_plan", "detectors", "webhooks"}

// sections gathers the values of each top-level key over all files.
func (p *parser) sections(names []string, files map[string][]byte) map[string][]place {
	out := map[string][]place{}
	p.productAt, p.planAt = map[string]place{}, map[string]place{}
	for _, name := range names {
		top, ok := p.document(name, files[name])
		if !ok {
			continue
		}
		o, ok := p.object(top, "catalog")
		if !ok {
			continue
		}
		for _, section := range sectionNames {
			if value, ok := o.take(section); ok {
				out[section] = append(out[section], value)
			}
		}
		o.done("catalog")
	}
	for _, once := range []string{"issuer", "default_plan"} {
		if s := out[once]; len(s) > 1 {
			p.wrong(s[1], "%s is given twice, first in %s line %d", once, s[0].file, s[0].node.Line)
		}
	}
	return out
}

// each calls read with every item of a section's lists.
func each(p *parser, lists []place, what string, read func(place)) {
	for _, list := range lists {
		for _, item := range p.list(list, what) {
			read(item)
		}
	}
}

var idPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// identifier is a name that others refer to.
func (p *parser) identifier(o *object, key, why string) string {
	id := o.need(key, why)
	if id != "" && !idPattern.MatchString(id) {
		p.wrong(o.at(key), "%s %q: want letters, digits, '.', '_' or '-', at most 64", key, id)
	}
	return id
}

func (p *parser) issuers(sections []place) {
	issuer := &p.catalog.Issuer
	issuer.Currency, issuer.Zone = "EUR", time.UTC
	if len(sections) == 0 {
		return
	}
	o, ok := p.object(sections[0], "issuer")
	if !ok {
		return
	}
	issuer.ID = p.identifier(o, "id", "it is in every invoice number, such as ACME")
	issuer.Name = o.text("name")
	issuer.Address = o.texts("address")
	issuer.TaxID = o.text("tax_id")
	issuer.Currency = p.currency(o, issuer.Currency)
	issuer.Zone = p.timeZone(o, time.UTC)
	p.zone = issuer.Zone
	seen := map[string]bool{}
	for _, item := range o.list("taxes") {
		if tax, ok := p.tax(item); ok {
			if seen[tax.Category] {
				p.wrong(item, "tax category %q is given twice", tax.Category)
			}
			seen[tax.Category] = true
			issuer.Taxes = append(issuer.Taxes, tax)
		}
	}
	o.done("issuer")
}

func (p *parser) tax(item place) (tax Tax, ok bool) {
	o, ok := p.object(item, "tax")
	if !ok {
		return tax, false
	}
	tax.Category = p.identifier(o, "category", "customers name it, such as standard")
	tax.Label = o.text("label")
	var at place
	if tax.Percent, at, ok = o.decimal("percent"); !ok {
		p.wrong(o.at("percent"), "tax %s: percent is missing; 19 means 19 %%", tax.Category)
	} else if tax.Percent.Sign() < 0 || tax.Percent.Cmp(schemas.NewDecimal(100, 0)) > 0 {
		p.wrong(at, "percent %s: want 0 to 100", tax.Percent)
	}
	if tax.Label == "" {
		tax.Label = tax.Category + " " + tax.Percent.String() + " %"
	}
	o.done("tax")
	return tax, true
}

func (p *parser) currency(o *object, fallback string) string {
	at, ok := o.take("currency")
	if !ok {
		return fallback
	}
	code := p.text(at, "currency")
	if !currency.IsValid(code) {
		p.wrong(at, "currency %q is not an ISO 4217 code; %s", code,
			didYouMean(code, currency.GetCurrencyCodes()))
		return fallback
	}
	return code
}

func (p *parser) timeZone(o *object, fallback *time.Location) *time.Location {
	at, ok := o.take("zone")
	if !ok {
		return fallback
	}
	zone, err := parseZone(p.text(at, "zone"))
	if err != nil {
		p.wrong(at, "%v", err)
		return fallback
	}
	return zone
}

// parseZone reads an IANA name. "Local" is refused: it would mean another zone on every machine.
func parseZone(name string) (*time.Location, error) {
	zone, err := time.LoadLocation(name)
	if err != nil || name == "Local" || name == "" {
		return nil, fmt.Errorf("time zone %q is unknown; want an IANA name such as Europe/Berlin or UTC",
			name)
	}
	return zone, nil
}

func (p *parser) defaultPlan(sections []place) {
	if len(sections) == 0 {
		return
	}
	id := p.text(sections[0], "default_plan")
	p.catalog.DefaultPlan = id
	if _, known := p.planAt[id]; id != "" && !known {
		p.wrong(sections[0], "default_plan %q is no plan; %s", id, didYouMean(id, keys(p.planAt)))
	}
}

// detectors are settings of the anomaly role, which knows their names; here they are texts.
func (p *parser) detectors(sections []place) {
	for _, section := range sections {
		all, ok := p.object(section, "detectors")
		if !ok {
			continue
		}
		for _, name := range keys(all.values) {
			at := all.at(name)
			if _, twice := p.catalog.Detectors[name]; twice {
				p.wrong(at, "detector %q is given twice", name)
			}
			value, ok := all.take(name)
			if !ok {
				continue
			}
			one, ok := p.object(value, "detector "+name)
			if !ok {
				continue
			}
			settings := map[string]string{}
			for _, setting := range keys(one.values) {
				settings[setting] = strings.Join(one.texts(setting), ",")
			}
			if p.catalog.Detectors == nil {
				p.catalog.Detectors = map[string]map[string]string{}
			}
			p.catalog.Detectors[name] = settings
		}
	}
}

func (p *parser) webhook(item place) {
	o, ok := p.object(item, "webhook")
	if !ok {
		return
	}
	w := Webhook{URL: o.need("url", "where alerts go"),
		SecretEnv: o.text("secret_env"), Events: o.texts("events")}
	if u, err := url.Parse(w.URL); w.URL != "" && (err != nil || u.Host == "" ||
		u.Scheme != "https" && u.Scheme != "http") {
		p.wrong(o.at("url"), "url %q: want https://host/path", w.URL)
	}
	if strings.HasPrefix(w.SecretEnv, "whsec_") {
		p.wrong(o.at("secret_env"), "secret_env takes the name of an environment variable, not the secret; "+
			"this secret is now in a file: replace it")
	}
	o.done("webhook")
	p.catalog.Webhooks = append(p.catalog.Webhooks, w)
}

func keys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
