package main

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
	"time"

	"tollgate/anomaly"
	"tollgate/schemas/catalog"
)

// catalogCommands check, compare and apply the agreement.
type catalogCommands struct {
	Check catalogCheck `cmd:"" help:"Say everything that is wrong with a catalog, with file and line."`
	Diff  catalogDiff  `cmd:"" help:"Show what applying a catalog would change, and for whom."`
	Apply catalogApply `cmd:"" help:"Store a catalog as the version in force."`
	List  catalogList  `cmd:"" help:"List the versions that were applied."`
}

type catalogCheck struct {
	Path string `arg:"" help:"A YAML file, or a folder of them."`
}

// Run prints every problem at once.
func (c catalogCheck) Run(a *app) error {
	parsed, _, err := loadCatalog(a, c.Path)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.out, "%s is sound: %d products, %d meters, %d plans; version %.12s\n", c.Path,
		len(parsed.Products), len(parsed.Meters), len(parsed.Plans), catalog.Hash(parsed))
	return nil
}

// loadCatalog reads and checks; what is wrong is printed, a line each.
func loadCatalog(a *app, path string) (*catalog.Catalog, map[string][]byte, error) {
	files, err := catalog.Load(path)
	if err != nil {
		return nil, nil, fmt.Errorf("%w; name a YAML file or a folder of them, such as examples/catalog", err)
	}
	parsed, problems := catalog.Parse(files)
	for _, problem := range problems {
		fmt.Fprintln(a.err, problem)
	}
	// the catalog keeps settings of detectors as texts: the detectors say whether they are right
	if parsed != nil {
		if _, err := anomaly.ParseSettings(parsed.Detectors); err != nil {
			fmt.Fprintln(a.err, err)
			problems = append(problems, catalog.Problem{Message: err.Error()})
		}
	}
	if len(problems) > 0 {
		fmt.Fprintf(a.err, "tollgate: %s cannot be used; problems: %d\n", path, len(problems))
		return nil, nil, errReported
	}
	return parsed, files, nil
}

type catalogDiff struct {
	Path string `arg:"" help:"A YAML file, or a folder of them."`
}

// Run prints one line a change.
func (c catalogDiff) Run(a *app) error {
	parsed, _, err := loadCatalog(a, c.Path)
	if err != nil {
		return err
	}
	return a.withCatalog(func(store *catalog.Store) error {
		lines, err := store.DiffWith(a.ctx, parsed)
		if err != nil {
			return err
		}
		if len(lines) == 0 {
			fmt.Fprintln(a.out, "nothing changes")
		}
		for _, line := range lines {
			fmt.Fprintln(a.out, line)
		}
		return nil
	})
}

type catalogApply struct {
	Path       string `arg:"" help:"A YAML file, or a folder of them."`
	MetersFrom string `help:"Minute from which its meters count; the next whole one where it is left out." placeholder:"INSTANT"`
	change
}

// Run stores the version and says its number.
func (c catalogApply) Run(a *app) error {
	_, files, err := loadCatalog(a, c.Path)
	if err != nil {
		return err
	}
	options := catalog.ApplyOptions{By: who(c.By), Reason: c.Reason}
	if c.MetersFrom != "" {
		if options.MetersFrom, err = parseInstant(c.MetersFrom, time.UTC); err != nil {
			return fmt.Errorf("--meters-from: %w", err)
		}
	}
	return a.withCatalog(func(store *catalog.Store) error {
		version, changed, err := store.Apply(a.ctx, files, options)
		if err != nil {
			return err
		}
		if !changed {
			fmt.Fprintf(a.out, "version %d (%.12s) is in force already and says the same\n",
				version.Seq, version.Hash)
			return nil
		}
		from := "always"
		if !version.MetersFrom.IsZero() && version.MetersFrom.Year() > 1970 {
			from = version.MetersFrom.Format(time.RFC3339)
		}
		fmt.Fprintf(a.out, "version %d (%.12s) is in force; its meters count from: %s\n",
			version.Seq, version.Hash, from)
		return nil
	})
}

type catalogList struct {
	form
}

// Run lists versions, oldest first.
func (c catalogList) Run(a *app) error {
	return a.withCatalog(func(store *catalog.Store) error {
		versions, err := store.Versions(a.ctx)
		if err != nil {
			return err
		}
		t := table{columns: []string{"version", "hash", "meters_from", "applied", "by", "reason"},
			none: "no catalog was applied: the built-in one is in force, a call costs 0.001 EUR; " +
				"`tollgate catalog apply examples/catalog` puts the example in force"}
		for _, v := range versions {
			t.add(strconv.FormatUint(v.Seq, 10), v.Hash, instant(v.MetersFrom), instant(v.Applied),
				v.By, v.Reason)
		}
		return a.show(&t, c.Output)
	})
}

// instant is a time as tables show it; "" for none.
func instant(t time.Time) string {
	if t.IsZero() || t.Unix() <= 0 {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// who is the name in the audit: what was given, else the user of this machine.
func who(given string) string {
	if given != "" {
		return given
	}
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	return "uid " + strconv.Itoa(os.Getuid())
}

// openCatalogStore makes the topics that numbers are drawn from where they are missing, and opens the store.
func openCatalogStore(a *app, p *parts) (*catalog.Store, error) {
	if err := ensureTopics(a.ctx, p); err != nil {
		return nil, err
	}
	claims, err := openClaims(a.ctx, p)
	if err != nil {
		return nil, err
	}
	store := catalog.NewStore(p.store, numbers{claims}, p.clock)
	return store, claimsIntact(a.ctx, p, claims, store)
}
