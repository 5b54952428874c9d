package demo

import (
	"fmt"
	"time"
)

// Customer of the story.
type Customer struct {
	ID   string
	Name string
	Plan string
	Zone string
	// TaxCategory is standard, or reverse_charge for customers in other countries.
	TaxCategory string
	// Kong customers come through the Kong gateway, which names them; the others show a key to the native
	// one.
	Kong   bool
	weight float64
	llm    bool
}

// Key is the raw API key that the customer's programs show; invented, valid only in the demo.
func (c Customer) Key() string { return "tg_demo_" + c.ID + "_5f3c1e" }

// Customers are the forty of the story: a few large, many small.
var Customers = customers()

func customers() (list []Customer) {
	names := []string{"Aldgate Travel", "Beacon Logistics", "Cobalt Maps", "Dunmore Retail",
		"Elm Street Labs", "Fjord Analytics", "Granite Insurance", "Harbour News", "Indigo Mobility",
		"Juniper Health", "Kestrel Delivery", "Lantern Games", "Meadow Foods", "Northwind Cargo",
		"Orchid Hotels", "Pinewood Bank", "Quarry Tools", "Riverbend Radio", "Saffron Kitchens",
		"Tamarind Stays", "Umber Studios", "Violet Weather", "Willow Clinics", "Xenia Tickets",
		"Yarrow Energy", "Zephyr Airlines", "Amber Parking", "Birch Homes", "Clover Schools", "Dover Ferries",
		"Ember Fitness", "Falcon Couriers", "Glacier Water", "Hazel Books", "Iris Optics",
		"Jasper Motors", "Kelp Aquariums", "Laurel Legal", "Maple Rentals", "Nettle Gardens"}
	for i, name := range names {
		c := Customer{ID: fmt.Sprintf("c%02d", i+1), Name: name, Zone: "UTC",
			Kong: i%3 == 2, weight: 1 / float64(i+2)}
		switch {
		case i%10 == 9:
			c.Plan = "partner"
		case i < 6:
			c.Plan = "growth"
		case i%2 == 0:
			c.Plan = "payg"
		default:
			c.Plan = "free"
			c.weight /= 6 // free customers stay below what they would pay for, mostly
		}
		c.llm = !c.Kong && i%4 != 3
		list = append(list, c)
	}
	for i := range list {
		list[i].TaxCategory = "standard"
		if i%5 == 3 {
			list[i].TaxCategory = "reverse_charge"
		}
	}
	list[4].Zone = "Europe/Berlin"  // its month begins and ends one or two hours before UTC's
	list[12].Zone = "Asia/Kolkata"  // whole hours do not fit its days
	list[6].Zone = "Asia/Kathmandu" // nor quarter hours its hours
	return list
}

type endpoint struct {
	name, product, method, path string
	share                       float64
	llm                         bool
	bytes                       int32
}

var endpoints = []endpoint{
	{"search", "search", "GET", "/v1/search", 0.42, false, 4_000},
	{"suggest", "search", "GET", "/v1/suggest", 0.18, false, 700},
	{"tile", "maps", "GET", "/v1/tiles", 0.24, false, 18_000},
	{"geocode", "maps", "GET", "/v1/geocode", 0.10, false, 1_200},
	{"completion", "llm", "POST", "/v1/completions", 0.06, true, 2_500},
	{"login", "", "POST", "/v1/login", 0, false, 90},
	{"probe", "", "GET", "", 0, false, 150},
}

const (
	endpointSearch = 0
	endpointLogin  = 5
	endpointProbe  = 6
)

var probes = []string{"/admin/", "/backup/", "/.env.", "/wp-login.php?", "/phpmyadmin/",
	"/api/v0/", "/debug/", "/config."}

var agents = []string{"meridian-go/2.3.1", "meridian-python/1.9.0", "meridian-js/4.0.2", "okhttp/4.12.0",
	"python-requests/2.32.3", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"}

// Incidents of the story: when they happen, in hours since the month began, and from where.
const (
	leakedHour  = 17*24 + 2 // the 18th at 02:00, when the key's owner sleeps
	leakedHours = 3
	bruteHour   = 11*24 + 14
	scanHour    = 20*24 + 6

	bruteAddress = 0xCB007142 // 203.0.113.66
	scanAddress  = 0xC6336417 // 198.51.100.23
	leakedNet    = 0xC6120000 // 198.18.0.0/15, set aside for benchmarks

	bruteEvents = 900
	scanEvents  = 400
)

// leaked is the customer whose key leaks.
const leaked = 7

// LeakedCustomer, BruteAddress and ScanAddress are whom the alerts must name.
var (
	LeakedCustomer = Customers[leaked].ID
	BruteAddress   = string(appendAddress(nil, bruteAddress))
	ScanAddress    = string(appendAddress(nil, scanAddress))
)

func (g *Generator) ordinary(start time.Time) fact {
	r := g.random
	f := fact{time: start.UnixMilli() + r.Int64N(3_600_000), of: -1}
	f.customer = int16(g.pickCustomer())
	c := &Customers[f.customer]
	f.endpoint = uint8(pickEndpoint(r.Float64(), c.llm))
	if c.Kong {
		f.source = 1
	}
	e := &endpoints[f.endpoint]
	f.bytesOut = e.bytes/2 + r.Int32N(e.bytes)
	// An address of the customer's own: 10.customer.x.y, some hundred of them.
	f.address = 10<<24 | uint32(f.customer+1)<<16 | r.Uint32N(200)
	f.status = 200
	switch s := r.Float64(); {
	case s < 0.010:
		f.status, f.bytesOut = 400, 120
	case s < 0.014:
		f.status, f.bytesOut = 404, 90
	case s < 0.017:
		f.status, f.bytesOut = 500, 60
	case s < 0.018:
		f.status, f.bytesOut = 304, 0
	}
	if e.llm && f.status == 200 {
		f.tokensIn, f.tokensOut = 20+r.Int32N(1_500), 10+r.Int32N(800)
	}
	return f
}

func (g *Generator) pickCustomer() int {
	at := g.random.Float64() * totalWeight
	for i := range Customers {
		if at -= Customers[i].weight; at < 0 {
			return i
		}
	}
	return len(Customers) - 1
}

var totalWeight = func() (sum float64) {
	for _, c := range Customers {
		sum += c.weight
	}
	return sum
}()

// pickEndpoint chooses by share; a customer without the completion API calls search instead.
func pickEndpoint(at float64, llm bool) int {
	for i, e := range endpoints {
		if at -= e.share; at < 0 {
			if e.llm && !llm {
				return endpointSearch
			}
			return i
		}
	}
	return endpointSearch
}

// incidents adds what is not ordinary about an hour.
func (g *Generator) incidents(start time.Time) {
	r := g.random
	hour := int(start.Sub(g.options.Month.From) / time.Hour)
	within := func() int64 { return start.UnixMilli() + r.Int64N(600_000) }
	if hour >= leakedHour && hour < leakedHour+leakedHours {
		for range max(6_000, g.options.Events/200) {
			g.facts = append(g.facts, fact{time: start.UnixMilli() + r.Int64N(3_600_000), customer: leaked,
				of: -1, endpoint: endpointSearch, status: 200, bytesOut: 3_000, address: leakedNet +
					r.Uint32N(1<<17)})
		}
	}
	if hour == bruteHour {
		for range bruteEvents {
			g.facts = append(g.facts, fact{time: within(), customer: -1, of: -1, endpoint: endpointLogin,
				status: 401, bytesOut: 90, address: bruteAddress})
		}
	}
	if hour == scanHour {
		for i := range scanEvents {
			g.facts = append(g.facts, fact{time: within(), customer: -1, of: -1, endpoint: endpointProbe,
				status: 404, bytesOut: 150, address: scanAddress, probe: int32(i)})
		}
	}
}

// faults are what a gateway or its operator gets wrong: {id} and {time} are filled in.
var faults = []struct{ reason, value string }{
	{"undecodable", `{"source":"edge","id":"{id}","time":"{time}","method":"GET","path":"/v1/sea`},
	{"wrong_time", `{"source":"edge","id":"{id}","time":"1999-12-31T23:59:59Z","method":"GET","path":"/v1/search","status":200}`},
	{"wrong_value", `{"source":"edge","id":"{id}","time":"{time}","path":"/v1/completions","quantities":{"tokens_in":"lots"}}`},
	{"unknown_field", `{"source":"edge","id":"{id}","time":"{time}","path":"/v1/search","statuss":200}`},
	{"foreign_source", `{"source":"somebody-else","id":"{id}","time":"{time}","path":"/v1/search","status":200}`},
}

// key is what the program behind a fact showed: the customer's, or a guess.
func (g *Generator) key(at int32) string {
	f := &g.facts[at]
	if f.customer >= 0 {
		return Customers[f.customer].Key()
	}
	if f.endpoint == endpointLogin {
		return fmt.Sprintf("guess-%06d", g.mix(at, 9)%1_000_000)
	}
	return "none-of-yours"
}
