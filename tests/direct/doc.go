// Package direct shows the back door as an operator meets it: the real daemon with its
// watch, the real Exim, and scripts of accounts that speak SMTP themselves, to another host
// that is a network namespace at the other end of a cable.
package direct
