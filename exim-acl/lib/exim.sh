# exim.sh: how Exim is asked and what it is told wherever it runs. Sourced by install.sh,
# before debian.sh or cpanel.sh, which know where its configuration comes from.

# exim_before refuses to build on what is broken already, unless our own pieces may be
# what broke it (a run that was killed leaves them half in place): then they are put in
# place again, and exim_after decides.
exim_before() {
	exim_can_change
	fault=$(exim_fault)
	[ -n "$fault" ] || {
		[ -n "$dry_run" ] || replies=$(probe | smtp_replies)
		return 0
	}
	ours_in_place || refuse "$fault; mend that first, nothing was changed"
	warn "$fault; osm is in it: trying to mend that"
}

fault= replies=

# none_held refuses to leave held mail to Exim, for uninstall.
none_held() {
	[ -n "$force" ] || held=$(held_messages)
	[ "${held:-0}" = 0 ] ||
		refuse "osm holds $held messages in Exim's queue. Without osm Exim would deal with them as with any frozen mail: bounce them to their senders after timeout_frozen_after. Release or discard them first (osmctl held list, osmctl held release, osmctl held discard), or leave them to Exim with --force; nothing was changed"
}

# held_messages: how many frozen messages have our answer with them.
held_messages() {
	find "$(spool)" -path '*/input/*' -name '*-H' -print0 2>/dev/null |
		xargs -0r grep -alsZ '^-frozen ' |
		xargs -0r grep -ahsA1 '^-*aclm _osm_a ' |
		grep -cxE 'freeze|discard|defer|deny' || true
}

# unusable says why Exim cannot use what is in force, if so.
unusable() {
	out=$($exim -bV 2>&1) || say "Exim cannot use its configuration as it is: $(printf '%s' "$out" | tail -n 3)"
}

# fill TEMPLATE: @NAME@ stands for $OSM_NAME; a line that begins with @NAME: is left
# out where that is empty. The Go package does the same (acl.go).
fill() {
	awk '{
		line = $0
		if (match(line, /^@[A-Z]+:/)) {
			if (ENVIRON["OSM_" substr(line, 2, RLENGTH - 2)] == "") next
			line = substr(line, RLENGTH + 1)
		}
		if (match(line, /@[A-Z]+@/))
			line = substr(line, 1, RSTART - 1) ENVIRON["OSM_" substr(line, RSTART + 1, RLENGTH - 2)] substr(line, RSTART + RLENGTH)
		print line
	}' "$1"
}

acl_text() {
	uid=$(id -u "$(exim_user)") || refuse "Exim's user $(exim_user) has no uid; nothing was changed"
	OSM_SOCKET=/run/osm/policy.sock OSM_TIMEOUT=1s OSM_FAILCLOSED=$fail_closed OSM_PANEL=$panel_fields \
		OSM_EXIMUID=$uid OSM_RELAYED=$relayed fill "$here/osm.acl.in"
}

# Exim does not say where its configuration is broken; then the usual names.
exim_user() { option exim_user | grep . || say $usual_user; }
exim_group() { option exim_group | grep . || say $usual_group; }

spool() { option spool_directory | grep . || say $usual_spool; }

# option NAME: the value that Exim itself says it has.
option() { $exim -bP "$1" 2>/dev/null | sed -n "s/^$1 = //p"; }

# without_ours FILE: its lines but our own blocks, with what we switched off on again.
without_ours() {
	[ ! -e "$1" ] || awk '/^# osm begin:/ { skip = 1 } !skip { sub(/^# osm was: /, ""); print } /^# osm end$/ { skip = 0 }' "$1"
}

# whole FILE... refuses where our own lines do not begin and end in turn: without_ours
# would take the operator's for ours.
whole() {
	for f in "$@"; do
		[ ! -e "$f" ] || awk '/^# osm begin:/ { bad += on; on = 1 } /^# osm end$/ { bad += !on; on = 0 } END { exit (bad + on > 0) }' "$f" ||
			refuse "in $f a line \"# osm begin:\" or \"# osm end\" is missing, so that osm's lines cannot be told from yours: put it back, or take all of osm's lines out; nothing was changed"
	done
}

# give_back FILE [STRIP]: without our changes, which STRIP takes out; the very bytes
# where nobody else changed it.
give_back() {
	[ -e "$1" ] || return 0
	edited=$(real "$1")
	kept=$(kept_path "$edited")
	${2:-without_ours} "$edited" >"$work/plain"
	if [ -e "$kept" ]; then
		awk '{ print }' "$kept" >"$work/kept"
		awk '{ print }' "$work/plain" | cmp -s - "$work/kept" && cp "$kept" "$work/plain"
	elif [ "$edited" = $may_be_ours ] && [ ! -s "$work/plain" ] && grep -q '^# osm begin:' "$edited"; then
		want_no "$edited" # it was ours alone
		return
	fi
	cmp -s "$edited" "$work/plain" || want "$edited" "$(stat -c %a "$edited")" "$(stat -c %u:%g "$edited")" <"$work/plain"
}

exim_changed=

exim_still_works() {
	out=$($exim -bV 2>&1) || refuse "Exim cannot use the new configuration: $(printf '%s' "$out" | tail -n 3)"
}

# probe: a message through Exim's ACLs from 127.0.0.1, which Exim drops in the end. The
# question in it is a real one.
probe() {
	host=$(option primary_hostname)
	[ -n "$host" ] || host=$(hostname)
	printf '%s\r\n' "EHLO $host" "MAIL FROM:<postmaster@$host>" "RCPT TO:<postmaster@$host>" DATA \
		"From: postmaster@$host" "To: postmaster@$host" "Subject: osm checks its own installation" '' 'No mail.' . QUIT |
		timeout 60 $exim -bh 127.0.0.1.33333 2>&1 9>&- # it may outlive us, and the lock must not
}

# smtp_replies: what Exim answered to the commands of a probe, but not to the message.
smtp_replies() { sed -n 's/^\([0-9][0-9][0-9]\) .*/\1/p' | head -n 5 | tr '\n' ' '; }

# same_replies refuses where Exim does not take a probe any more that it took before.
same_replies() {
	now=$(smtp_replies <"$work/probe")
	case $replies/$now in
	*/*354*) ;;
	*354*) refuse "Exim took a test message before, and now answers its commands with $now" ;;
	esac
}

# script_fault CONFIGURATION says why Exim cannot run its ACL of script mail, if so: each
# message would be refused, with a bounce. It hands a message of root's to it, with a spool
# and a log of its own that are thrown away. The question in it is a real one.
script_fault() {
	host=$(option primary_hostname)
	try=$(mktemp -d $state.XXXXXX)
	mkdir "$try/spool" "$try/log"
	chown "$(exim_user):$(exim_group)" "$try/spool" "$try/log"
	chgrp "$(exim_group)" "$try"
	chmod 710 "$try" # there may be passwords in what follows
	{
		printf '%s\n' "spool_directory = $try/spool" "log_file_path = $try/log/%slog"
		grep -vE '^[[:space:]]*(spool_directory|log_file_path)[[:space:]]*=' "$1"
	} >"$try/conf"
	printf '%s\n' "To: postmaster@$host" "Subject: osm checks its own installation" '' 'No mail.' |
		timeout 60 $exim -C "$try/conf" -odq -oep -i -f "postmaster@$host" "postmaster@$host" >"$try/said" 2>&1 9>&- || true
	! grep -q 'local configuration problem' "$try/said" || tail -n 1 "$try/log/mainlog" | sed 's/.*rejected by non-SMTP ACL: //'
	rm -rf "$try"
}

# probe_result: asked (and answered), down (asked, nobody answers), unreached, missing.
probe_result() {
	probe >"$work/probe" || true
	if grep -q 'action=[a-z]* .*osm=1' "$work/probe"; then
		say asked
	elif grep -q 'osm=down' "$work/probe"; then
		say down
	elif ! grep -q '^354' "$work/probe"; then
		say unreached
	else
		say missing
	fi
}

# seconds OPTION: an Exim time such as 5w or 1d12h.
seconds() {
	option "$1" | awk '{
		n = 0
		while (match($0, /^[0-9]+[wdhms]/)) {
			u = substr($0, RLENGTH, 1); v = substr($0, 1, RLENGTH - 1) + 0
			n += v * (u == "w" ? 604800 : u == "d" ? 86400 : u == "h" ? 3600 : u == "m" ? 60 : 1)
			$0 = substr($0, RLENGTH + 1)
		}
		printf "%d", n
	}'
}

keep_days=35 # above held_keep (30 days)

# timers warns about what takes frozen mail away before osm does.
timers() {
	for o in timeout_frozen_after ignore_bounce_errors_after; do
		s=$(seconds $o)
		[ "$s" = 0 ] && [ $o = timeout_frozen_after ] || [ "$s" -gt $((30 * 86400)) ] ||
			warn "Exim's $o is $(option $o): held mail would be bounced or dropped before held_keep (30 days); $raise_it"
	done
	[ "$(seconds auto_thaw)" = 0 ] || warn "Exim's auto_thaw is $(option auto_thaw): Exim delivers held mail by itself$no_thaw"
	case $(option log_selector) in
	*-skip_delivery*) ;;
	*) warn "Exim's log_selector has no -skip_delivery: one log line for each frozen message and queue run" ;;
	esac
}
