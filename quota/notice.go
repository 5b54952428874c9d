package quota

import (
	"encoding/hex"
	"encoding/json"
	"time"

	"github.com/zeebo/xxh3"
)

// NoticeType says what happened to a limit.
type NoticeType string

const (
	// LimitReached: the counter has reached the limit's units; the gate denies, or, where the limit's action
	// is notify, only this notice is given.
	LimitReached NoticeType = "limit.reached"
	// LimitRestored: the window of a limit that was reached has ended.
	LimitRestored NoticeType = "limit.restored"
)

// Notice is one record of quota-events, as JSON; the record's key is the customer. It is published at least
// once; ID is a function of customer, credential, limit, units and window, so that a reader knows a repeat.
type Notice struct {
	ID         string     `json:"id"`
	Type       NoticeType `json:"type"`
	Customer   string     `json:"customer"`
	Credential string     `json:"credential,omitempty"` // public id or keyed hash, of limits per credential
	Limit      string     `json:"limit"`
	Meter      string     `json:"meter"`
	Units      string     `json:"units"`  // the limit, a decimal
	Per        string     `json:"per"`    // minute, hour, day or month
	Action     string     `json:"action"` // deny or notify
	From       time.Time  `json:"from"`   // of the window
	To         time.Time  `json:"to"`
}

// noticeOf writes a notice. The same limit and window give the same text, byte for byte, so that a set holds
// it once.
func noticeOf(what NoticeType, r *rule, k *counted) string {
	n := Notice{Type: what, Customer: k.customer, Credential: k.credential, Limit: r.limit.ID,
		Meter: r.limit.Meter, Units: r.limit.Units.String(), Per: r.limit.Per, Action: r.limit.Action,
		From: time.UnixMilli(k.window.From).UTC(), To: time.UnixMilli(k.window.To).UTC()}
	text := n.text()
	sum := xxh3.HashString128(text).Bytes()
	n.ID = hex.EncodeToString(sum[:])
	return n.text()
}

func (n Notice) text() string {
	text, err := json.Marshal(n)
	if err != nil {
		panic("BUG: write a quota notice: " + err.Error())
	}
	return string(text)
}
