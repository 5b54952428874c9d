package collector

import (
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"strings"

	"tollgate/schemas/catalog"
	"tollgate/schemas/stream"
)

// A right to amend and void (law 2) that comes with a record is proved, not claimed: every gateway may write
// headers. The proof is a keyed hash of who makes the correction and of all that the record says, headers
// that name its events or their sources included, under the key of credential hashes, which only Tollgate
// has. Beside anything else it is of no use.

// maxActor bounds the name of who makes a correction, in bytes.
const maxActor = 120

// GrantAmend adds to a record the proof that actor may amend and void with it; nothing else may be added to
// it later. Whoever calls it has made sure of the right: by a key's setting, or because a person runs a tool.
func GrantAmend(h *catalog.Hasher, actor string, r *stream.Record) error {
	if actor == "" || len(actor) > maxActor || !printable(actor) {
		return fmt.Errorf("grant the right to amend to %.40q: who makes the corrections must be named, in "+
			"at most %d bytes of printable text", actor, maxActor)
	}
	proof := h.Hash(amendment(actor, r))
	r.Headers = append(r.Headers, stream.Header{Key: HeaderAmend, Value: []byte(proof + " " + actor)})
	return nil
}

// amendment is what a proof is made of. It begins as no credential does, and lengths keep its parts apart.
func amendment(actor string, r *stream.Record) string {
	b := []byte("tollgate amend\x00")
	part := func(s string) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	part(actor)
	for i := range r.Headers {
		key := r.Headers[i].Key
		ours := strings.HasPrefix(key, "tollgate-") || strings.HasPrefix(key, "ce_") ||
			key == HeaderContentType
		if ours && key != HeaderAmend { // others are of tools on the way, such as traces
			part(key)
			part(alias(r.Headers[i].Value))
		}
	}
	part(alias(r.Value))
	return alias(b)
}

// mayAmend tells who may amend and void with the record of o, "" where nobody may.
func (o *origin) mayAmend(h *catalog.Hasher) string {
	if o.amend {
		return "topic " + o.topic
	}
	if !o.judged {
		o.judged, o.actor = true, proven(h, o.proof, o.record)
	}
	return o.actor
}

// proven is who a proof names, "" where it proves nothing.
func proven(h *catalog.Hasher, proof string, r *stream.Record) string {
	hash, actor, ok := strings.Cut(proof, " ")
	if !ok || actor == "" || len(actor) > maxActor || !printable(actor) {
		return ""
	}
	for _, want := range h.Candidates(amendment(actor, r)) {
		if subtle.ConstantTimeCompare([]byte(want), []byte(hash)) == 1 {
			return actor
		}
	}
	return ""
}
