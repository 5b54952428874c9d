package console

import (
	"bytes"
	"embed"
	"html/template"
	"net/http"
	"net/url"
	"strings"
	"time"

	"tollgate/schemas"
)

//go:embed pages
var files embed.FS

// pageTemplate is a page within the layout.
type pageTemplate = template.Template

// page is what every template is given.
type page struct {
	Title    string
	Section  string // of the navigation
	Now      time.Time
	Insecure bool
	Body     any
}

var utc = time.UTC

// parsePages reads the templates; all texts are escaped by their place (html/template): event texts come from
// strangers.
func parsePages() map[string]*pageTemplate {
	functions := template.FuncMap{
		"grouped": grouped, "amount": amount,
		"number":  func(n uint64) string { return grouped(uintText(n)) },
		"day":     func(t time.Time) string { return t.UTC().Format(time.DateOnly) },
		"instant": func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") },
		"rfc3339": func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"dayIn": func(t time.Time, zone string) string {
			return t.In(zoneOf(zone)).Format(time.DateOnly)
		},
		"instantIn": func(t time.Time, zone string) string {
			return t.In(zoneOf(zone)).Format("2006-01-02 15:04")
		},
		"segment": url.PathEscape, "shell": shell, "reasonText": reasonText, "places": places,
		"detectors": func() []string {
			return []string{schemas.DetectorSpike, schemas.DetectorBruteForce, schemas.DetectorPathScan,
				schemas.DetectorGap, schemas.DetectorConflicts}
		},
	}
	layout := template.Must(template.New("layout.html").Funcs(functions).ParseFS(files,
		"pages/layout.html", "pages/parts.html"))
	pages := map[string]*pageTemplate{}
	for _, name := range []string{"overview", "usage", "invoices", "invoice", "alerts",
		"rejected", "problem"} {
		pages[name] = template.Must(template.Must(layout.Clone()).ParseFS(files, "pages/"+name+".html"))
	}
	return pages
}

// zoneOf is the zone in which a document counts its days; it is UTC where this machine does not know the
// zone.
func zoneOf(name string) *time.Location {
	if zone, err := time.LoadLocation(name); err == nil {
		return zone
	}
	return utc
}

// routePages adds the pages and their style sheet.
func (c *console) routePages(mux *http.ServeMux) {
	mux.HandleFunc("GET /console.css", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=300")
		http.ServeFileFS(w, r, files, "pages/console.css")
	})
	for pattern, show := range map[string]func(*http.Request) (string, *page, error){
		"GET /{$}": c.overview, "GET /usage": c.usagePage, "GET /alerts": c.alertsPage,
		"GET /rejected": c.rejectedPage, "GET /invoices": c.invoicesPage,
		"GET /invoices/{number}": c.invoicePage, "GET /": func(*http.Request) (string, *page, error) {
			return "", nil, &problem{http.StatusNotFound, "there is no such page"}
		},
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			name, p, err := show(r)
			if err != nil {
				told := c.problemOf(pattern, err)
				c.render(w, "problem", told.status,
					&page{Title: http.StatusText(told.status), Body: told.text})
				return
			}
			c.render(w, name, http.StatusOK, p)
		})
	}
}

// render writes a page that is complete: one that fails half way is not begun.
func (c *console) render(w http.ResponseWriter, name string, status int, p *page) {
	p.Now, p.Insecure = c.Now().UTC(), c.Insecure
	var out bytes.Buffer
	if err := c.pages[name].Execute(&out, p); err != nil {
		c.Log.Error("render a page of the console", "page", name, "error", err)
		writeProblem(w, &problem{http.StatusInternalServerError,
			"this page could not be made; the log of the console says why"})
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	if _, err := w.Write(out.Bytes()); err != nil {
		c.Log.Debug("the reader of a page has gone", "page", name, "error", err)
	}
}

// shell quotes a text so that a command with it can be copied into a shell whatever strangers put into it.
func shell(text string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' ||
			strings.ContainsRune("._:/@%+-", r)
	}
	if text != "" && strings.TrimFunc(text, plain) == "" && !strings.HasPrefix(text, "-") {
		return text
	}
	clean := strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f { // a line break would end the command
			return -1
		}
		return r
	}, text)
	return "'" + strings.ReplaceAll(clean, "'", `'\''`) + "'"
}
