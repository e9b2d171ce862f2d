package store

import (
	"context"
	"database/sql"

	"osm/policy"
)

// Evidence is what was found out about who made a message of an event, as JSON shows it.
type Evidence struct {
	At          Time   `json:"at"`  // of the message
	Ref         string `json:"ref"` // of the message
	Script      string `json:"script"`
	URL         string `json:"url"`
	Method      string `json:"method"`
	VirtualHost string `json:"virtual_host"`
	ClientIP    string `json:"client_ip"` // the visitor's
	PID         int64  `json:"pid"`
	Basis       string `json:"basis"`
	Confidence  string `json:"confidence"`
}

// maxEvidence is how much is kept of one event: the first that was found.
const maxEvidence = 20

// PutEvidence notes what was found out about a message of an event.
func (s *Store) PutEvidence(ctx context.Context, event int64, at Time, ref string, e policy.Evidence) error {
	return s.do(ctx, "store evidence", func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO evidence (event, at, ref, script, url, method, virtual_host, client_ip, pid, basis, confidence)
			SELECT ?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11 WHERE (SELECT count(*) FROM evidence WHERE event = ?1) < ?12`,
			event, ms(at.Time), clean(ref, 32), clean(e.Script, 4096), clean(e.URL, 4096), clean(e.Method, 16), clean(e.VirtualHost, 255),
			address(e.ClientIP), int64(e.PID), clean(e.Basis, 512), int64(e.Confidence), int64(maxEvidence))
		return err
	})
}

func evidenceOf(ctx context.Context, c *cursor, event int64) (list []Evidence, err error) {
	err = c.each(ctx, `SELECT at, ref, script, url, method, virtual_host, client_ip, pid, basis, confidence FROM evidence
		WHERE event = ? ORDER BY confidence DESC, id LIMIT ?`, []value{event, int64(maxEvidence)}, func(v []value) error {
		e := Evidence{
			At: Time{moment(integer(v[0]))}, Ref: str(v[1]), Script: str(v[2]), URL: str(v[3]), Method: str(v[4]), VirtualHost: str(v[5]),
			PID: integer(v[7]), Basis: str(v[8]), Confidence: policy.Confidence(integer(v[9])).String(),
		}
		if ip := addressOf(v[6]); ip.IsValid() {
			e.ClientIP = ip.String()
		}
		list = append(list, e)
		return nil
	})
	return list, err
}
