package control

import store "osm/sql"

// Time is a moment as the API writes it: RFC 3339, UTC, milliseconds; null for none.
type Time = store.Time

// Period is a length of time as the API writes it: a Go duration, "1h".
type Period = store.Period

// List is a page of a list.
type List[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"` // where the next page begins; "" = this was the last
}
