// Package cpanel is a stand-in for a cPanel server, to try the installer, the page's CGI
// and the daemon on, for there is no cPanel here.
//
// tree holds what is copied over a private view of this machine, and setup what else makes
// a stand-in of it. The programs in it carry the names of cPanel's, take their arguments and
// end with their exit status as far as these are documented or known, and keep state in
// files; each says in its first lines which faults a test can switch on, by a word in
// /run/standin/faults. What they were called with stands in /run/standin/calls. Exim is the
// real one, with cPanel's paths, users, ACL blocks and variables.
//
// What can only be seen on a licensed server stands in docs/cpanel-checklist.md.
package cpanel
