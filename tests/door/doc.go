// Package door holds the acceptance tests of the door: real mail by PHP mail(), sendmail,
// loopback SMTP and SMTP AUTH, through the real Exim and the real daemon, counted, charged
// to the right account and stopped at the right message; and what attackers try.
package door
