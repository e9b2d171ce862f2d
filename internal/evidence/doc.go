// Package evidence finds out which script, and which web request, sent a message: from the
// chain of processes that the kernel told, Apache's status page (mod_status) and the status
// pages of php-fpm.
//
// It never guesses. A request counts only if its time agrees with that of the process that
// was started for the message; where two requests could be it, it names what they have in
// common and leaves the visitor out. It runs after the answer to Exim, never before it, asks
// addresses of this host only, each for 300 ms at most, believes nothing it reads, and
// writes nothing. The key of Apache's status page is never logged.
//
// What can be told depends on how the web server runs PHP:
//
//	module (mod_php, prefork)  Apache's process is in the chain; its row in the status
//	                           page has the request
//	CGI, suEXEC                the environment of the CGI process, compared with Apache's rows
//	php-fpm                    the pool's status page has the script and the URI of the
//	                           worker in the chain; the visitor is the one whose request in
//	                           Apache's page has the same URI, if there is only one
//	lsphp and others           the script from the process's title or arguments; no visitor
package evidence
