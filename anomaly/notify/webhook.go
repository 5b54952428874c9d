package notify

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/zeebo/xxh3"
)

// Message is one thing to say.
type Message struct {
	ID   string    // the same in every attempt, and after a restart: receivers drop what they have seen
	Type string    // "alert.opened", …
	Time time.Time // when it happened
	Body []byte    // the whole payload, JSON
}

// Sender takes messages to one target.
type Sender interface {
	// Name is stable, short, and holds no secret: it labels metrics and rows.
	Name() string
	// Wants tells whether the target asked for messages of this type.
	Wants(messageType string) bool
	// Send tries once. A Refusal says how to go on; any other error is worth another try.
	Send(ctx context.Context, m Message, now time.Time) error
}

// Refusal is an answer of a target other than success.
type Refusal struct {
	Status int
	Final  bool          // trying again is of no use
	After  time.Duration // not before; 0 = as the sender likes
	Why    string
}

// Error says what was answered.
func (r Refusal) Error() string {
	if r.Why != "" {
		return r.Why
	}
	return fmt.Sprintf("answered %d %s", r.Status, http.StatusText(r.Status))
}

// WebhookOptions say where to send and how to sign.
type WebhookOptions struct {
	// URL takes the POST. https, or http to a loopback address (a receiver on the same machine).
	URL string
	// Secret signs: "whsec_" and 24 to 64 bytes in base64. During a rotation several, separated by spaces:
	// each signs.
	Secret string
	// Events are the types to send: "alert.opened", or "alert.*" for all that begin so. None = all.
	Events []string
	// Timeout of one attempt, from dialling to the end of the answer. Default 15s. Not less: receivers do
	// their work before they answer. Not more: one target's messages wait for each other.
	Timeout time.Duration
	// RootCAs trust the receiver's certificate. Default nil: those of the machine. Certificates are always
	// verified.
	RootCAs *x509.CertPool
}

// Webhook sends messages by Standard Webhooks (https://www.standardwebhooks.com): headers webhook-id,
// webhook-timestamp and webhook-signature.
type Webhook struct {
	url     string
	name    string
	secrets [][]byte
	events  []string
	client  *http.Client
}

// maxAnswer is how much of an answer is read so that the connection can be used again; its content means
// nothing.
const maxAnswer = 64 << 10

// maxRetryAfter bounds how long a target may tell us to wait.
const maxRetryAfter = time.Hour

// NewWebhook checks the options, all at once.
func NewWebhook(o WebhookOptions) (*Webhook, error) {
	u, urlErr := checkURL(o.URL)
	secrets, secretErr := parseSecrets(o.Secret)
	if err := errors.Join(urlErr, secretErr); err != nil {
		return nil, fmt.Errorf("webhook: %w", err)
	}
	if o.Timeout == 0 {
		o.Timeout = 15 * time.Second
	}
	transport := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: o.RootCAs},
		TLSHandshakeTimeout:   5 * time.Second,
		ResponseHeaderTimeout: o.Timeout,
		MaxIdleConnsPerHost:   1,
		IdleConnTimeout:       90 * time.Second,
		ForceAttemptHTTP2:     true,
	}
	return &Webhook{
		url: o.URL, secrets: secrets, events: o.Events,
		// The path may be a secret of its own: the name has the host and a hash of the rest.
		name:   fmt.Sprintf("%s-%08x", u.Host, uint32(xxh3.HashString(o.URL))),
		client: &http.Client{Transport: transport, Timeout: o.Timeout, CheckRedirect: sameHost},
	}, nil
}

func checkURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil {
		return nil, errors.New("url: it must be https://host/path, without a password in it")
	}
	if ip := net.ParseIP(u.Hostname()); u.Scheme == "http" && u.Hostname() != "localhost" &&
		(ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("url: http to %s would show alerts to the network; use https", u.Host)
	}
	return u, nil
}

// sameHost follows a redirect only where the message stays a POST to the host it was meant for.
func sameHost(next *http.Request, via []*http.Request) error {
	first := via[0]
	if len(via) > 3 || next.Method != first.Method || next.URL.Host != first.URL.Host ||
		next.URL.Scheme != first.URL.Scheme {
		return http.ErrUseLastResponse
	}
	return nil
}

// Name is the host and a hash of the whole address.
func (w *Webhook) Name() string { return w.name }

// Wants tells whether the webhook's events name the type.
func (w *Webhook) Wants(messageType string) bool {
	for _, e := range w.events {
		if prefix, all := strings.CutSuffix(e, "*"); e == messageType || all &&
			strings.HasPrefix(messageType, prefix) {
			return true
		}
	}
	return len(w.events) == 0
}

// Send posts m once, signed with every secret. now is the time of the attempt: receivers refuse old ones.
func (w *Webhook) Send(ctx context.Context, m Message, now time.Time) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url, bytes.NewReader(m.Body))
	if err != nil {
		return Refusal{Final: true, Why: "make request: " + err.Error()}
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "tollgate")
	request.Header.Set(HeaderID, m.ID)
	request.Header.Set(HeaderTimestamp, strconv.FormatInt(now.Unix(), 10))
	request.Header.Set(HeaderSignature, sign(w.secrets, m.ID, now, m.Body))
	answer, err := w.client.Do(request)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // without the address, whose path may be a secret
		}
		return fmt.Errorf("send %s to %s: %w", m.ID, w.name, err)
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(answer.Body, maxAnswer)); err != nil &&
		answer.StatusCode/100 != 2 {
		return fmt.Errorf("send %s to %s: read answer %d: %w", m.ID, w.name, answer.StatusCode, err)
	}
	return refusal(answer, now)
}

// refusal is nil for 2xx. 410 means by the standard that the target wants nothing any more.
func refusal(answer *http.Response, now time.Time) error {
	if answer.StatusCode/100 == 2 {
		return nil
	}
	r := Refusal{Status: answer.StatusCode}
	switch s := answer.StatusCode; {
	case s/100 == 3:
		r.Final, r.Why = true, fmt.Sprintf("answered %d, a redirect to another address: set the url "+
			"to where it leads", s)
	case s == http.StatusGone:
		r.Final = true
	case s == http.StatusTooManyRequests, s == http.StatusServiceUnavailable:
		text := answer.Header.Get("Retry-After")
		if seconds, err := strconv.Atoi(text); err == nil && seconds > 0 {
			r.After = time.Duration(min(seconds, int(maxRetryAfter/time.Second))) * time.Second
		} else if at, err := http.ParseTime(text); err == nil && at.After(now) {
			r.After = min(at.Sub(now), maxRetryAfter)
		}
	}
	return r
}

// The headers of Standard Webhooks.
const (
	HeaderID        = "webhook-id"
	HeaderTimestamp = "webhook-timestamp"
	HeaderSignature = "webhook-signature"
)

// Tolerance is how far a message's timestamp may be from the receiver's clock, as the standard advises: 5
// minutes.
const Tolerance = 5 * time.Minute

// ErrSignature says that a message was not signed with the secret.
var ErrSignature = errors.New("no signature of the message matches the secret")

// ErrTimestamp says that a message's timestamp is missing, or too far from now.
var ErrTimestamp = errors.New("the timestamp of the message is missing or more than 5 minutes from now")

// Verify is what a receiver does: it checks the headers and body of a message against the secret at time now.
func Verify(secret string, header http.Header, body []byte, now time.Time) error {
	secrets, err := parseSecrets(secret)
	if err != nil {
		return fmt.Errorf("verify message: %w", err)
	}
	seconds, err := strconv.ParseInt(header.Get(HeaderTimestamp), 10, 64)
	if err != nil {
		return ErrTimestamp
	}
	at := time.Unix(seconds, 0)
	if d := now.Sub(at); d > Tolerance || d < -Tolerance {
		return ErrTimestamp
	}
	for given := range strings.FieldsSeq(header.Get(HeaderSignature)) {
		version, encoded, _ := strings.Cut(given, ",")
		signature, err := base64.StdEncoding.DecodeString(encoded)
		if version != "v1" || err != nil {
			continue
		}
		for _, s := range secrets {
			if hmac.Equal(signature, mac(s, header.Get(HeaderID), at, body)) {
				return nil
			}
		}
	}
	return ErrSignature
}

// sign makes the signature header: one v1 signature for each secret.
func sign(secrets [][]byte, id string, at time.Time, body []byte) string {
	out := make([]string, len(secrets))
	for i, s := range secrets {
		out[i] = "v1," + base64.StdEncoding.EncodeToString(mac(s, id, at, body))
	}
	return strings.Join(out, " ")
}

func mac(secret []byte, id string, at time.Time, body []byte) []byte {
	h := hmac.New(sha256.New, secret)
	fmt.Fprintf(h, "%s.%d.", id, at.Unix())
	h.Write(body)
	return h.Sum(nil)
}

// parseSecrets reads "whsec_…" secrets; errors never show them.
func parseSecrets(text string) ([][]byte, error) {
	var out [][]byte
	for field := range strings.FieldsSeq(text) {
		secret, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(field, "whsec_"))
		if err != nil || !strings.HasPrefix(field, "whsec_") || len(secret) < 24 || len(secret) > 64 {
			return nil, errors.New(`secret: it must be "whsec_" and 24 to 64 bytes in base64: ` +
				`make one with: printf whsec_; head -c 32 /dev/urandom | base64`)
		}
		out = append(out, secret)
	}
	if len(out) == 0 {
		return nil, errors.New("secret: there is none; a receiver could not tell our messages from others'")
	}
	return out, nil
}
