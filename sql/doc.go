// Package store keeps what was decided: decisions, events, held mail, holds, overrides,
// exemptions and the audit, in one SQLite database (WAL, STRICT tables, numbered
// migrations). It is the only package that knows SQL.
//
// There is one writer, [Store.Run]. Decisions reach it through a bounded queue that never
// blocks ([Store.Append]) and are written behind the answer, in batches of at most 1,000
// rows or 200 ms; everything else is a short transaction that the writer runs between two
// batches. A disk that is full, a lock, a read-only or broken file stop nobody's mail:
// what fits stays in memory, [Store.Health] tells, and the writer mends itself. A corrupt
// database is set aside, never deleted; holds, limits, exemptions, held mail, events and
// the audit are carried over as far as they can be read.
//
// Readers have connections of their own, which cannot write, and every read is bounded in
// time and rows: a reader that never stops would make the write-ahead log grow without end.
//
// A decision is found by its reference, which is made of its number (see policy.RefOf), by
// the time in Exim's message id, or by wall time through a table with one row a minute:
// the big table has no index but its number and a partial one of what was stopped.
//
// The package never decides anything and never starts a program. Its callers are the
// daemon and the control service.
package store
