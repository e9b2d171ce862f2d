package report

import (
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"strconv"
	"time"
)

// SignatureHeader is the HTTP header that carries what [Sign] makes.
const SignatureHeader = "X-OSM-Signature"

// Sign is the value of [SignatureHeader] for a webhook's body: "t=SECONDS,v1=HEX", where
// HEX is the HMAC-SHA256, by the shared secret, of the seconds as they stand in t, a dot
// and the body. at is when it is sent; a retry is signed anew.
//
// A receiver takes the bytes of the body as they came, computes the same, compares in
// constant time, and refuses a t that is more than five minutes away from its clock, so
// that nobody can send an old report again. docs/report-schema.md shows it in Python.
func Sign(secret []byte, at time.Time, body []byte) string {
	t := strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(t + "."))
	mac.Write(body)
	return fmt.Sprintf("t=%s,v1=%x", t, mac.Sum(nil))
}
