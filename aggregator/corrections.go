package aggregator

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/zeebo/xxh3"

	"tollgate/schemas"
	"tollgate/schemas/auditlog"
	"tollgate/schemas/wire"
)

// Actions of corrections in the audit log.
const (
	actionVoid  = "void"
	actionAmend = "amend"
)

// maxAudited bounds what the audit log keeps of a reason, in bytes.
const maxAudited = 1000

// corrected is the audit row of an amendment or void that was read at; false for any other event, and for one
// that says nobody: that is a correction published again because its customer became known, which has its
// row.
func corrected(e *wire.UsageEvent, at time.Time) (auditlog.Entry, bool) {
	if e.Revision == 0 || e.By == "" {
		return auditlog.Entry{}, false
	}
	action := actionAmend
	if e.Revision == schemas.RevisionVoid {
		action = actionVoid
	}
	reason := strings.TrimSpace(e.Reason)
	for len(reason) > maxAudited || !utf8.ValidString(reason) {
		reason = strings.ToValidUTF8(reason[:min(len(reason), maxAudited)], "")
	}
	entry := auditlog.Entry{Time: at, Actor: strings.Clone(e.By), Action: action,
		Subject: fmt.Sprintf("%s/%s", e.Source, e.Id),
		Reason:  strings.Clone(cmp.Or(reason, "none was given")),
		Details: map[string]string{"time": time.UnixMilli(e.Time).UTC().Format("2006-01-02T15:04:05.000Z"),
			"revision": strconv.Itoa(int(e.Revision)), "customer": strings.Clone(e.Customer)}}
	sum := xxh3.HashString128(fmt.Sprintf("%q %q %d %d %x %q", e.Source, e.Id, e.Time, e.Revision,
		e.Content, e.By)).Bytes()
	entry.ID = hex.EncodeToString(sum[:]) // the same however often it is delivered
	return entry, true
}
