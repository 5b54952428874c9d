package main

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"tollgate/anomaly"
	"tollgate/anomaly/notify"
	"tollgate/schemas/catalog"
)

func (r *roles) startAnomaly(ctx context.Context, a *app) error {
	snapshots, unsubscribe := r.follower.Subscribe()
	snapshot := r.follower.Current()
	settings, err := anomaly.ParseSettings(snapshot.Catalog().Detectors)
	if err != nil {
		unsubscribe()
		return fmt.Errorf("catalog version %d: %w", snapshot.Version().Seq, err)
	}
	hooks := webhooks{secret: a.getenv, log: r.log}
	positions := r.group(groupAnomaly + anomaly.PositionsSuffix)
	r.anomaly, err = anomaly.New(r.p.kafka, anomaly.NewStore(r.p.store), anomaly.Options{Group: groupAnomaly,
		Standalone: r.group("").Standalone, Settings: &settings,
		Notifiers: hooks.senders(snapshot.Catalog().Webhooks), Now: r.p.clock,
		Generations: positions.Generations, Gaps: positions.Gaps, OnStop: positions.OnStop,
		OnRead: positions.OnRead, Log: r.log, Metrics: r.p.registry})
	if err != nil {
		unsubscribe()
		return err
	}
	r.run(ctx, "anomaly", r.anomaly.Run)
	r.run(ctx, "detector settings and webhooks", func(ctx context.Context) error {
		defer unsubscribe()
		for {
			select {
			case <-ctx.Done():
				return nil
			case s := <-snapshots:
				r.anomaly.SetNotifiers(hooks.senders(s.Catalog().Webhooks))
				settings, err := anomaly.ParseSettings(s.Catalog().Detectors)
				if err != nil {
					r.log.Error("detector settings of the catalog are not used",
						"version", s.Version().Seq, "error", err)
					continue
				}
				r.anomaly.SetSettings(settings)
			}
		}
	})
	return nil
}

// webhooks makes senders of a catalog's webhooks. One goroutine uses it.
type webhooks struct {
	secret func(environment string) string
	log    *slog.Logger
	// by all that it was made of: one that did not change stays, and keeps its waits
	known map[string]notify.Sender
}

// senders are those of a catalog version.
func (w *webhooks) senders(hooks []catalog.Webhook) (out []notify.Sender) {
	used := map[string]notify.Sender{}
	for _, o := range mergeWebhooks(hooks, w.secret) {
		key := strings.Join(append([]string{o.URL, o.Secret}, o.Events...), "\n")
		sender := w.known[key]
		if sender == nil {
			made, err := notify.NewWebhook(o)
			if err != nil { // one receiver that is not set up keeps nothing else from working
				w.log.Error("a webhook of the catalog is not served; set its secret, as in export "+
					"NAME=whsec_$(openssl rand -base64 32), and start again", "url", o.URL, "secret_env",
					secretNames(hooks, o.URL), "error", err)
				continue
			}
			sender = made
		}
		used[key] = sender
		out = append(out, sender)
	}
	w.known = used
	return out
}

// mergeWebhooks makes one target of webhooks with the same address: deliveries are known by it, and two
// targets of one name would each take the other's for done. The target wants what any of them wants, and each
// secret signs.
func mergeWebhooks(hooks []catalog.Webhook, secret func(string) string) (out []notify.WebhookOptions) {
	for _, hook := range hooks {
		at := slices.IndexFunc(out, func(o notify.WebhookOptions) bool { return o.URL == hook.URL })
		if at < 0 {
			out = append(out, notify.WebhookOptions{URL: hook.URL, Secret: secret(hook.SecretEnv),
				Events: slices.Clone(hook.Events)})
			continue
		}
		o := &out[at]
		if s := secret(hook.SecretEnv); !strings.Contains(o.Secret, s) {
			o.Secret += " " + s
		}
		if len(o.Events) == 0 || len(hook.Events) == 0 {
			o.Events = nil // all
			continue
		}
		o.Events = append(o.Events, hook.Events...)
	}
	return out
}

func secretNames(hooks []catalog.Webhook, url string) string {
	var names []string
	for _, hook := range hooks {
		if hook.URL == url {
			names = append(names, hook.SecretEnv)
		}
	}
	return strings.Join(names, ",")
}
