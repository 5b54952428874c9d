package anomaly

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Settings are what the catalog says about detection (`detectors:`), with defaults filled in.
type Settings struct {
	Spike     SpikeSettings
	Brute     BruteSettings
	Scan      ScanSettings
	Alerts    AlertSettings
	Conflicts ConflictSettings
}

// DefaultSettings are in force where the catalog says nothing.
func DefaultSettings() Settings {
	return Settings{Spike: defaultSpike(), Brute: defaultBrute(), Scan: defaultScan(),
		Alerts: defaultAlerts(), Conflicts: defaultConflicts()}
}

// ParseSettings reads the catalog's detectors: spike, brute_force, path_scan, conflicts and alerts, each a
// map of setting to value. Every problem is reported at once.
func ParseSettings(detectors map[string]map[string]string) (Settings, error) {
	s := DefaultSettings()
	tables := map[string]map[string]setting{
		"spike": s.Spike.table(), "brute_force": s.Brute.table(), "path_scan": s.Scan.table(),
		"alerts": s.Alerts.table(), "conflicts": s.Conflicts.table(),
	}
	var problems []error
	for _, detector := range slices.Sorted(maps.Keys(detectors)) {
		table, ok := tables[detector]
		if !ok {
			problems = append(problems, fmt.Errorf("detectors: %q is not one of %s", detector, names(tables)))
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(detectors[detector])) {
			set, ok := table[name]
			if !ok {
				problems = append(problems,
					fmt.Errorf("detectors: %s: setting %q is not one of %s", detector, name, names(table)))
				continue
			}
			if err := set(strings.TrimSpace(detectors[detector][name])); err != nil {
				problems = append(problems, fmt.Errorf("detectors: %s: %s: %w", detector, name, err))
			}
		}
	}
	return s, errors.Join(problems...)
}

func names[V any](m map[string]V) string { return strings.Join(slices.Sorted(maps.Keys(m)), ", ") }

// setting reads one value into its field.
type setting func(text string) error

// number is a setting of at least low.
func number(field *float64, low float64) setting {
	return func(text string) error {
		v, err := strconv.ParseFloat(text, 64)
		if err != nil || !(v >= low) || v > 1e15 {
			return fmt.Errorf("%q is not a number of at least %g", text, low)
		}
		*field = v
		return nil
	}
}

// share is a setting between 0 and 1.
func share(field *float64) setting {
	return func(text string) error {
		v, err := strconv.ParseFloat(text, 64)
		if err != nil || !(v >= 0 && v <= 1) {
			return fmt.Errorf("%q is not a share between 0 and 1", text)
		}
		*field = v
		return nil
	}
}

// minutes is a setting of whole minutes, at least low.
func minutes(field *int32, low time.Duration) setting {
	return func(text string) error {
		d, err := time.ParseDuration(text)
		if err != nil || d < low || d > 90*24*time.Hour || d%time.Minute != 0 {
			return fmt.Errorf("%q is not a duration of whole minutes between %s and 2160h, such as 30m",
				text, low)
		}
		*field = int32(d / time.Minute)
		return nil
	}
}

func flag(field *bool) setting {
	return func(text string) error {
		v, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", text)
		}
		*field = v
		return nil
	}
}

// statuses is a list of HTTP statuses.
func statuses(field *[]uint32) setting {
	return func(text string) error {
		out, err := list(text, func(item string) (uint32, error) {
			v, err := strconv.ParseUint(item, 10, 16)
			if err != nil || v < 100 || v > 599 {
				return 0, fmt.Errorf("%q is not an HTTP status", item)
			}
			return uint32(v), nil
		})
		*field = out
		return err
	}
}

// prefixes is a list of networks or single addresses.
func prefixes(field *[]netip.Prefix) setting {
	return func(text string) error {
		out, err := list(text, func(item string) (netip.Prefix, error) {
			if a, err := netip.ParseAddr(item); err == nil {
				return netip.PrefixFrom(a, a.BitLen()), nil
			}
			p, err := netip.ParsePrefix(item)
			if err != nil {
				return p, fmt.Errorf("%q is neither an address nor a network such as 10.0.0.0/8", item)
			}
			return p, nil
		})
		*field = out
		return err
	}
}

// LoginRoute is a method and path under which a gateway's product lets people log in.
type LoginRoute struct{ Method, Path string }

// loginRoutes is a list such as "POST /wp-login.php, POST /login".
func loginRoutes(field *[]LoginRoute) setting {
	return func(text string) error {
		out, err := list(text, func(item string) (LoginRoute, error) {
			method, path, ok := strings.Cut(item, " ")
			path = strings.TrimSpace(path)
			if !ok || !strings.HasPrefix(path, "/") || strings.ToUpper(method) != method {
				return LoginRoute{}, fmt.Errorf("%q is not a method and a path, such as POST /login", item)
			}
			return LoginRoute{method, path}, nil
		})
		*field = out
		return err
	}
}

// words is a list of texts.
func words(field *[]string) setting {
	return func(text string) error {
		out, err := list(text, func(item string) (string, error) { return strings.ToLower(item), nil })
		*field = out
		return err
	}
}

// maxListed bounds a list of settings: matching walks it for every failed event.
const maxListed = 256

func list[T any](text string, read func(string) (T, error)) ([]T, error) {
	var out []T
	var problems []error
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		v, err := read(item)
		out, problems = append(out, v), append(problems, err)
	}
	if len(out) > maxListed {
		problems = append(problems, fmt.Errorf("%d values, at most %d", len(out), maxListed))
	}
	return out, errors.Join(problems...)
}
