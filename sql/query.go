package store

import (
	"context"
	"fmt"
	"strconv"
)

// query is a SELECT whose conditions are added one by one. Values are always parameters.
type query struct {
	text string
	args []value
}

// and adds a condition.
func (q *query) and(condition string, args ...value) {
	q.text += " AND " + condition
	q.args = append(q.args, args...)
}

// equal adds that a column has a value, unless it is empty.
func (q *query) equal(column, wanted string) {
	if wanted != "" {
		q.and(column+" = ?", wanted)
	}
}

// among adds that a column has one of some values; nil: any.
func (q *query) among(column string, wanted []string) {
	if wanted != nil {
		q.and(column+" IN (SELECT value FROM json_each(?))", jsonList(wanted))
	}
}

// below adds that a number is lower than where the page before ended.
func (q *query) below(column, after string) error { return q.beyond(column, " < ?", after) }

// above adds that a number is higher than where the page before ended.
func (q *query) above(column, after string) error { return q.beyond(column, " > ?", after) }

func (q *query) beyond(column, operator, after string) error {
	if after == "" {
		return nil
	}
	n, err := strconv.ParseInt(after, 10, 64)
	if err != nil {
		return fmt.Errorf("%.40q is not where a page ended", after)
	}
	q.and(column+operator, n)
	return nil
}

// rowsOf reads all rows of a query, which bounds their number itself. A list without rows
// is empty, not nil.
func rowsOf[T any](ctx context.Context, s *Store, doing, text string, args []value, of func(v []value) T) ([]T, error) {
	list := []T{}
	err := s.read(ctx, doing, func(ctx context.Context, c *cursor) error {
		return c.each(ctx, text, args, func(v []value) error {
			list = append(list, of(v))
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}
