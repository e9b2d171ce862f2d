// Package control is what people and programs ask the running daemon: the operations
// ([Service]), their HTTP/JSON form on the control socket ([Handler]), and the client
// that osmctl and the page use ([Client]).
//
// The socket is a unix socket, root:osm-admin 0660; there is no network address. Who
// asks is told by the kernel: root and members of the admin group are operators. Only
// uid 0 may assert somebody else, by the headers X-OSM-User (the name for the audit),
// X-OSM-Role (operator or reseller) and X-OSM-Reseller; what a reseller may see and set
// is decided in [Service], never by a page. Every change leaves an audit row with the
// old and the new value.
//
//	GET    /v1/status                          the daemon, its parts and its alarms
//	GET    /v1/top                             who sent most         since, by, limit, after
//	GET    /v1/usage/{account}                 every counter of an account
//	GET    /v1/events                          who went over         since, account, trigger, open
//	GET    /v1/events/{id}                     one event, with its messages and what followed
//	GET    /v1/explain/{reference or message id}
//	POST   /v1/explain                         what would happen to a described message; counts nothing
//	GET    /v1/tail                            decisions as they are made, one JSON object per line
//	GET    /v1/held                            held mail             account, mailbox, working_directory, subject, trigger, state
//	GET    /v1/held/{reference or message id}  one held message with its headers
//	POST   /v1/held/release                    let held mail go      refs or the filters above, expect, dry_run
//	POST   /v1/held/discard                    remove it for good    the same
//	GET    /v1/holds                           standing holds
//	POST   /v1/holds                           put one
//	DELETE /v1/holds/{id}                      end one
//	POST   /v1/reset                           forget one counter    trigger, key
//	GET    /v1/limits                          limits set in the database
//	PUT    /v1/limits                          set one               level, name, trigger, max, …
//	DELETE /v1/limits/{id}
//	GET    /v1/exemptions                      with how often each was used
//	POST   /v1/exemptions
//	DELETE /v1/exemptions/{id}
//	GET    /v1/config                          every value in force and where it stands
//	GET    /v1/config/export                   the same as osm.toml (text)
//	POST   /v1/config/check                    the mistakes of a file that is not in force yet: toml
//	POST   /v1/config/reload                   read the file again
//	GET    /v1/audit                           who changed what      since
//	GET    /v1/doctor                          the daemon's own checks
//	POST   /v1/backup                          a copy of the database, path
//	GET    /metrics                            Prometheus
//
// A list is {"items":[…],"next":"…"}; next is given back as the parameter after, and
// missing at the end; limit is at most 1000. Times are RFC 3339 in UTC with
// milliseconds, periods Go durations ("1h"), names snake_case and the same everywhere.
// An error is {"error":"…","hint":"…"} with a fitting status: 400 not understood, 403
// not allowed, 404 not there, 409 not the number that was expected, 422 a value out of
// range, 503 a part of the daemon is not there. A body is at most 1 MiB.
package control
