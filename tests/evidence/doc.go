// Package evidence shows on a real Apache with real PHP, by all ways in which panels run it,
// and on the real Exim that the script, the URL and the visitor behind a message are named,
// and never wrong ones. Everything runs in namespaces of its own.
package evidence
