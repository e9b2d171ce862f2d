#!/bin/sh
# ticket.sh ADDRESS: mails a report to the address of a ticket system. Any format, on
# standard input.
#
#   [[script]]
#   name    = "ticket"
#   command = ["/etc/osm/scripts/ticket.sh", "tickets@example.com"]
#   user    = "osm-scripts"      # a user made for this
#
# What spammers wrote stands in the report: nothing of it reaches a header, and the body is
# base64, so that no line of it ends the message. osm counts this mail as the user's own,
# so that it must not be "nobody", as whom web servers may send too.
set -eu
to=${1:?to whom}
case $to in -* | *[!A-Za-z0-9._+@-]*) echo "ticket.sh: no address: $to" >&2; exit 2 ;; esac
body=$(base64)
[ -n "$body" ] || { echo "ticket.sh: there is no report" >&2; exit 2; }
{
	echo "To: $to"
	echo "Subject: [osm] report from $(hostname)"
	echo "Auto-Submitted: auto-generated"
	echo "MIME-Version: 1.0"
	echo "Content-Type: text/plain; charset=utf-8"
	echo "Content-Transfer-Encoding: base64"
	echo
	printf '%s\n' "$body"
} | /usr/sbin/sendmail -i -- "$to"
echo "mailed to $to"
