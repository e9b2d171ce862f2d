// Package report makes the report of an event: one document ([Report]) for programs, in
// four formats ([Report.Encode]), and letters for people ([Templates.Text], [Mail]).
//
// It sends nothing, stores nothing, reads no clock and decides nothing. Whoever sends
// reports gathers the [Facts], calls [New], and hands on what the rest of this package
// makes of it:
//
//	r := report.New(report.Facts{Event: event, Kind: report.First, Host: host, Now: now, …})
//	body, err := r.Encode(report.JSON)                  // a webhook's body, a script's input
//	header := report.Sign(secret, now, body)            // of the webhook
//	text, err := templates.Text(r, report.Operator)     // for people
//	mail, err := report.Mail(r, text, from, to)         // RFC 5322, for sendmail -i
//
// Nearly every text in a report was chosen by a stranger: a Subject, a path, a URL. The
// document keeps them as they are but for three things: they are valid UTF-8, cut to a
// length, and lists have a bound ([New]). Each format writes them so that its own parser
// gives back the same text and nothing can be taken for structure or code. What people
// read is cleaned further: one line each, no control or direction characters.
//
// The schema is published in docs/report-schema.md, which a test compares with the types.
package report
