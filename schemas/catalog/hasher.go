package catalog

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"tollgate/schemas"
)

// HashingKey is one secret under which credentials are hashed, with the public id that its hashes carry.
type HashingKey struct {
	ID     string // letters and digits, at most 16, such as "2026a"
	Secret []byte // at least 16 bytes; 32 random ones are right
}

// Hasher turns raw keys into keyed hashes, so that no store or topic of ours holds a key, and a stolen table
// cannot be searched with a dictionary. It is safe for concurrent use.
type Hasher struct{ keys []HashingKey }

var hashingKeyID = regexp.MustCompile(`^[A-Za-z0-9]{1,16}$`)

// NewHasher takes the current key first, and during a rotation the previous one after it.
func NewHasher(keys ...HashingKey) (*Hasher, error) {
	if len(keys) == 0 || len(keys) > 2 {
		return nil, fmt.Errorf("hashing keys: want one, or two during a rotation, found %d", len(keys))
	}
	for i, k := range keys {
		if !hashingKeyID.MatchString(k.ID) {
			return nil, fmt.Errorf("hashing key id %q: want 1 to 16 letters and digits", k.ID)
		}
		if len(k.Secret) < 16 {
			return nil, fmt.Errorf("hashing key %s: the secret has %d bytes, at least 16 are needed",
				k.ID, len(k.Secret))
		}
		if i > 0 && k.ID == keys[0].ID {
			return nil, fmt.Errorf("hashing key id %s is given twice", k.ID)
		}
	}
	return &Hasher{keys}, nil
}

// KeyIDs are the public ids, the current one first.
func (h *Hasher) KeyIDs() (ids []string) {
	for _, k := range h.keys {
		ids = append(ids, k.ID)
	}
	return ids
}

// Hash is the keyed hash of a secret under the current key: "kh1:<key id>:<32 hex digits>", 128 bits of
// HMAC-SHA256.
func (h *Hasher) Hash(secret string) string { return hashUnder(h.keys[0], secret) }

// Candidates are the hashes under all keys, the current one first: a credential may have been stored under
// either.
func (h *Hasher) Candidates(secret string) []string {
	out := make([]string, len(h.keys))
	for i, k := range h.keys {
		out[i] = hashUnder(k, secret)
	}
	return out
}

func hashUnder(k HashingKey, secret string) string {
	mac := hmac.New(sha256.New, k.Secret)
	mac.Write([]byte(secret)) //nolint:errcheck // a hash never fails
	var sum [sha256.Size]byte
	out := make([]byte, 0, len("kh1:")+len(k.ID)+1+32)
	out = append(out, "kh1:"...)
	out = append(out, k.ID...)
	out = append(out, ':')
	return string(hex.AppendEncode(out, mac.Sum(sum[:0])[:16]))
}

var hashPattern = regexp.MustCompile(`^kh1:[A-Za-z0-9]{1,16}:[0-9a-f]{32}$`)

// IsHash tells whether text has the form of Hash.
func IsHash(text string) bool { return hashPattern.MatchString(text) }

// KeyPrefix begins every key that NewKey makes, so that scanners of repositories can find leaked ones.
const KeyPrefix = "tg_live_"

// NewKey makes a random key of 160 bits. It is shown once and stored only as its hash.
func NewKey() string {
	random := make([]byte, 20)
	rand.Read(random) //nolint:errcheck // never fails: the program ends where the system has no randomness
	return KeyPrefix + strings.ToLower(base32.StdEncoding.EncodeToString(random))
}

// NewCredential makes a key for a customer: the secret to show once, and the credential to store.
func NewCredential(h *Hasher, id, customer string) (secret string, c Credential, err error) {
	if id == "" || customer == "" {
		return "", c, errors.New("new credential: an id and a customer are needed")
	}
	secret = NewKey()
	return secret, Credential{ID: id, Kind: schemas.CredentialHash,
		Match: h.Hash(secret), Customer: customer}, nil
}
