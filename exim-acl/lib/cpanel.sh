# cpanel.sh: what cPanel's Exim and WHM are told, how it is checked, and how it is taken
# out again. Sourced by install.sh where there is cPanel.
#
# cPanel makes /etc/exim.conf out of pieces. Ours are two ACL files with names of their
# own, which updates and WHM's backups carry along, and a few lines in the file that is
# kept for the administrator. Nothing that cPanel ships is changed.

cpanel=/usr/local/cpanel
exim=/usr/sbin/exim
usual_user=mailnull usual_group=mail usual_spool=/var/spool/exim
conf=/etc/exim.conf
local_conf=/etc/exim.conf.local
localopts=/etc/exim.conf.localopts
may_be_ours=$local_conf
builder=$cpanel/scripts/buildeximconf

# Each name is a switch too (acl_NAME in $localopts). In the ACL of script mail ours
# must come behind resolve_vhost_owner, which finds out for whom "nobody" sends, and
# before end_…, which accepts everything.
acls=$cpanel/etc/exim/acls
smtp_name=zz_osm_out_smtp
script_name=zz_osm_out_notsmtp
policy=$acls/ACL_OUTGOING_SMTP_CHECKALL_BLOCK/$smtp_name
script_acl=$acls/ACL_OUTGOING_NOTSMTP_CHECKALL_BLOCK/$script_name

docroot=$cpanel/whostmgr/docroot
cgi=$docroot/cgi/osm
icon=$docroot/addon_plugins/osm.png
appconfig=$cpanel/3rdparty/osm/osm.conf
registered=/var/cpanel/apps/osm.conf
hook_maps=$cpanel/3rdparty/bin/osm-maps
hook_upgraded=$cpanel/3rdparty/bin/osm-upgraded
chkservd=/etc/chkserv.d

# What acl_text needs to know.
relayed=$(cat "$here/cpanel/relayed.in")
panel_fields=$(cat "$here/cpanel/fields.in")

# What "timers" advises.
in_whm="in WHM, Exim Configuration Manager, Advanced Editor"
raise_it="raise it $in_whm" no_thaw="; set auto_thaw = 0s $in_whm"

# Where the part that runs Exim as root must be able to write: cPanel's Exim logs into
# /var/log itself, and single files cannot be named there on EL8.
exim_paths() { say "-$(spool) -/var/log"; }

osm_settings() {
	sed -e 's/^#\[exim\]$/[exim]/' \
		-e "s/^#user = \"Debian-exim\"$/user = \"$(exim_user)\"/" \
		-e "s/^#group = \"Debian-exim\"$/group = \"$(exim_group)\"/" \
		-e "s|^#binary = \"/usr/sbin/exim4\"$|binary = \"$exim\"|" \
		-e "s|^#spool = \"/var/spool/exim4\"$|spool = \"$(spool)\"|" "$here/../internal/config/osm.toml"
}

executor_more() {
	say "exim_user = \"$(exim_user)\""
	say "exim_binary = \"$exim\""
	say "exim_spool = \"$(spool)\""
}

# exim_can_change refuses where a part of cPanel is missing.
exim_can_change() {
	for p in $builder $cpanel/scripts/restartsrv_exim $cpanel/bin/register_appconfig \
		$cpanel/bin/unregister_appconfig $cpanel/3rdparty/bin/perl $exim; do
		[ -x $p ] || refuse "there is no $p: this cPanel is not whole; nothing was changed"
	done
	[ -d $cpanel/etc/exim ] || refuse "there is no $cpanel/etc/exim: this cPanel makes no Exim configuration; nothing was changed"
}

exim_can_leave() {
	exim_can_change
	none_held
}

ours_in_place() { [ -e $policy ] || [ -e $script_acl ] || grep -qs '^# osm begin:' $local_conf; }

# build [OPTION...]: cPanel's builder; it keeps the old file where Exim refuses the new
# one. It may run long where an account has many domains, but not for ever.
build() { timeout 300 $builder "$@" 2>&1 9>&-; }

# why TEXT: the lines of what a program of cPanel's said that tell what is wrong.
why() {
	printf '%s\n' "$1" | grep -iE 'error|invalid|fail|cannot|unknown|refus' | tail -n 5 | grep . ||
		printf '%s\n' "$1" | tail -n 5
}

# exim_fault says why Exim cannot use what is there now, if so.
exim_fault() {
	fault=$(unusable)
	[ -z "$fault" ] || {
		say "$fault"
		return 0
	}
	out=$(build --acl_dry_run) ||
		say "cPanel cannot build Exim's configuration as it is ($builder --acl_dry_run): $(why "$out")"
}

# switched_off NAME: the administrator does not want that ACL file.
switched_off() { grep -qsE "^acl_$1=0[[:space:]]*$" $localopts; }

plan_exim() {
	whole $local_conf
	logged=$(option log_selector)
	OSM_TEXT=$(acl_text)
	export OSM_TEXT
	OSM_NAME=$smtp_name fill "$here/cpanel/acl.in" | want $policy 644 root:root
	OSM_NAME=$script_name fill "$here/cpanel/acl.in" | want $script_acl 644 root:root
	plan_local
}

# plan_local: Exim's timers, its log and the router, as far as cPanel's builder can make
# a configuration with them; the ACLs do without. It is tried beforehand.
plan_local() {
	for more in "settings router" settings; do
		case $more in *router) [ ! -e $state/no-router ] || continue ;; esac
		local_with $more >"$work/local"
		if cmp -s "$work/local" $local_conf || out=$(build --acl_dry_run --local="$work/local"); then
			want_edited $local_conf <"$work/local"
			return
		fi
		warn "cPanel cannot build with osm's $(printf %s "$more" | sed 's/ / and /') in $local_conf ($(why "$out")): trying with less"
	done
	warn "nothing was added to $local_conf: Exim's timers are as they were"
}

# local_with settings [router]: $local_conf with our two blocks in their sections.
local_with() {
	OSM_FROZEN=${keep_days}d OSM_BOUNCES=${keep_days}d OSM_LOGSELECTOR=-skip_delivery OSM_ROUTER=''
	! set_locally timeout_frozen_after || OSM_FROZEN=
	! set_locally ignore_bounce_errors_after || OSM_BOUNCES=
	! set_locally log_selector || OSM_LOGSELECTOR=
	[ "${2:-}" != router ] || OSM_ROUTER=yes
	export OSM_FROZEN OSM_BOUNCES OSM_LOGSELECTOR OSM_ROUTER
	fill "$here/cpanel/config.in" >"$work/config"
	{
		say "# osm begin: written by osm's installer, which also takes it out"
		cat "$here/debian/router.in"
		say "# osm end"
	} >"$work/router"
	without_ours $local_conf | in_section CONFIG "$work/config" |
		if [ -n "$OSM_ROUTER" ]; then in_section ROUTERSTART "$work/router"; else cat; fi
}

# set_locally OPTION: the administrator set it himself.
set_locally() { without_ours $local_conf | grep -qE "^[[:space:]]*$1[[:space:]]*="; }

# in_section NAME FILE: what is read, with FILE at the beginning of the section @NAME@,
# which is made where it is missing.
in_section() {
	awk -v head="@$1@" -v file="$2" '
		function insert() { while ((getline line <file) > 0) print line; close(file); done = 1 }
		{ print }
		!done && $1 == head && NF == 1 { insert() }
		END { if (!done) { print head; insert() } }'
}

# local_plain FILE: without our blocks, and without sections that we made for them.
local_plain() {
	first=$(kept_path "$1")
	[ -e "$first" ] || first=/dev/null
	without_ours "$1" | awk -v first="$first" '
		BEGIN { while ((getline line <first) > 0) { split(line, word); had[word[1]] = 1 } }
		function flush(i) { for (i = 1; i <= n; i++) print waits[i]; n = 0 }
		/^[@%][A-Z_]+[@%][ \t]*$/ {
			if (name in had) flush()
			n = 1; waits[1] = $0; name = $1 # until it is seen whether the section is empty
			next
		}
		n && /^[ \t]*$/ { waits[++n] = $0; next }
		{ flush(); print }
		END { if (name in had) flush() }'
}

plan_exim_out() {
	whole $local_conf
	want_no $policy
	want_no $script_acl
	! grep -qs '^# osm begin:' $local_conf || give_back $local_conf local_plain
	[ ! -e $localopts ] || give_back $localopts localopts_plain
	for f in $local_conf $localopts $conf; do want_no "$(readlink -f $f).osm-new"; done
}

localopts_plain() { sed -E "/^acl_($smtp_name|$script_name)=/d" "$1"; }

plan_exim_files_out() { :; }

# exim_regenerate: first as a trial, then for good.
exim_regenerate() {
	cp $conf "$work/conf"
	remember $conf
	built=$(build --acl_dry_run) || refuse "cPanel cannot build Exim's new configuration ($builder --acl_dry_run): $(why "$built")"
	rebuild
	if has_router && [ "$($exim -bP router_list 2>/dev/null | head -n 1)" != osm_discard ]; then
		warn "the router osm_discard does not come first in $conf: left out, discarded script mail is frozen and then removed by osmd"
		remember $state/no-router
		: >$state/no-router
		local_with settings >"$work/local"
		replace $local_conf "$work/local"
		rebuild
	fi
	cmp -s "$work/conf" $conf || exim_changed=yes
}

rebuild() {
	built=$(build) || refuse "cPanel cannot build Exim's configuration: $(why "$built")"
}

has_router() { grep -qs '^osm_discard:' $local_conf; }

# replace FILE WITH: owner and mode stay.
replace() {
	edited=$(real "$1")
	remember "$edited"
	remember "$edited.osm-new"
	cat "$2" >"$edited.osm-new"
	chown --reference="$edited" "$edited.osm-new"
	chmod --reference="$edited" "$edited.osm-new"
	mv -f "$edited.osm-new" "$edited"
}

# exim_let_go: the configuration without osm's pieces.
exim_let_go() {
	exim_regenerate
	exim_still_works
}

exim_left() { exim_still_works; }

# marked NAME: cPanel's builder has put that ACL file in.
marked() { grep -qE "^[[:space:]]*# BEGIN INSERT $1([[:space:]]|$)" $conf; }

# exim_after: both files must have got into Exim's configuration, unless the
# administrator switched them off, and a test message must lead to a question.
exim_after() {
	exim_still_works
	asks_about=
	inserted $script_name "mail of scripts (PHP mail(), sendmail)"
	inserted $smtp_name "mail by SMTP"
	log_is_whole
	case $asks_about in "mail of scripts"*"mail by SMTP") asks_about="every outgoing message" ;; esac
	if [ -z "$asks_about" ]; then
		answer=off
	elif switched_off $smtp_name; then # then nothing can be tried without sending mail
		answer=down
		! answers || answer=asked
	else
		answer=$(probe_result)
		same_replies
	fi
	case $answer in
	unreached) warn "Exim takes no test message from 127.0.0.1, so the question could not be tried" ;;
	missing) refuse "a test message did not lead to a question: $conf does not come to $policy in the ACL of acl_smtp_data" ;;
	esac
	switched_off $script_name || scripts_pass
}

# scripts_pass refuses where Exim cannot run the ACL of script mail, and could before.
scripts_pass() {
	refusal=$(script_fault $conf)
	[ -n "$refusal" ] || return 0
	[ -n "$(script_fault "$work/conf")" ] || refuse "Exim would refuse all mail of scripts: $refusal"
	warn "Exim refuses all mail of scripts, as it did before: $refusal"
}

# log_is_whole: cPanel joins its own log_selector with the administrator's line. Where it
# did not, less is logged than before.
log_is_whole() {
	selector=" $(option log_selector) "
	for word in $logged; do
		case $selector in
		*" $word "*) ;;
		*) warn "Exim's log_selector has lost $word: put it into the line log_selector in @CONFIG@ of $local_conf" ;;
		esac
	done
}

# inserted NAME WHAT
inserted() {
	if switched_off "$1"; then
		warn "$2 is not checked: acl_$1=0 in $localopts, so the administrator switched it off. To switch it on: take that line out, then run $builder and $cpanel/scripts/restartsrv_exim"
		return
	fi
	marked "$1" || case $built in
	*"ACL insert failed"*) refuse "cPanel says \"ACL insert failed\": the ACLs are replaced by text of the administrator's own (%ACLBLOCK% or the like in $local_conf), into which nothing can be put; with \"install.sh acl\" the text can be put there by hand" ;;
	*) refuse "$builder left $1 out of $conf (there is no \"# BEGIN INSERT $1\"): $(why "$built")" ;;
	esac
	asks_about=$asks_about${asks_about:+ and }$2
}

# exim_reload: panel_join and panel_left restart it while what was done can still be
# taken back.
exim_reload() { :; }

restart_exim() {
	[ -n "$exim_changed$unfinished" ] || return 0
	restarted=yes
	out=$(timeout 120 $cpanel/scripts/restartsrv_exim 2>&1 9>&-) || refuse "Exim does not start again: $(why "$out")"
	say "restarted Exim"
}

# check_hooks names what is missing of the hooks, for "check".
check_hooks() {
	for name in $smtp_name $script_name; do
		if switched_off $name; then
			missing "acl_$name=0 in $localopts: the administrator switched $name off"
		elif ! marked $name; then
			missing "$conf does not hold $name: run $builder and $cpanel/scripts/restartsrv_exim"
		fi
	done
	switched_off $smtp_name || case $(probe_result) in
	asked) say "Exim asks, osmd answers" ;;
	down) missing "Exim asks, but osmd does not answer on /run/osm/policy.sock" ;;
	unreached) warn "Exim takes no test message from 127.0.0.1, so the question could not be tried" ;;
	*) missing "a test message led to no question" ;;
	esac
	switched_off $script_name || {
		refusal=$(script_fault $conf)
		[ -z "$refusal" ] || missing "Exim refuses all mail of scripts: $refusal"
	}
	is_registered || missing "WHM does not know the page: run install again"
}

# --- WHM ---------------------------------------------------------------------

plan_panel() {
	from=$here/../whm-addon/cgi
	want_dir $cgi 700 root:root
	want $cgi/index.cgi 700 root:root <"$from/index.cgi"
	want $icon 644 root:root <"$from/osm.png"
	want $appconfig 644 root:root <"$from/osm.conf"
	want $hook_maps 755 root:root <"$here/cpanel/osm-maps"
	want $hook_upgraded 755 root:root <"$here/cpanel/osm-upgraded"
	watched || return 0
	want $chkservd/osmd 644 root:root <"$here/cpanel/chkservd"
	{
		awk '{ print }' $chkservd/chkservd.conf
		grep -qs '^osmd:' $chkservd/chkservd.conf || say osmd:1
	} | want_edited $chkservd/chkservd.conf
}

# watched: cPanel's own watchdog can start the daemon again, by systemd.
watched() { has_systemd && [ -e $chkservd/chkservd.conf ]; }

show_panel() {
	say "would build Exim's configuration ($builder), restart Exim, and register the page in WHM"
}

# panel_guard: what is told to cPanel's programs is told again after a failure, when the
# files are what they were. These are the first to be noted, so the last to be done.
panel_guard() {
	undo_with tell_whm_again
	undo_with restart_chkservd_again
	undo_with restart_exim_again
}

restarted= told_whm= told_chkservd=

tell_whm_again() {
	[ -z "$told_whm" ] || if [ -e $appconfig ]; then register; else unregister || [ ! -e $registered ]; fi
}

restart_chkservd_again() { [ -z "$told_chkservd" ] || restart_chkservd; }

restart_exim_again() { [ -z "$restarted" ] || timeout 120 $cpanel/scripts/restartsrv_exim 9>&-; }

# Both in "/": a file of that name in the present folder would be taken for it.
register() { (cd / && timeout 120 $cpanel/bin/register_appconfig $appconfig 2>&1 9>&-); }
unregister() { (cd / && timeout 120 $cpanel/bin/unregister_appconfig osm 2>&1 9>&-); }

is_registered() {
	[ -e $registered ] || return 1
	ask=$cpanel/bin/is_registered_with_appconfig
	[ ! -x $ask ] || [ "$(timeout 30 $ask whostmgr osm 2>/dev/null)" != 0 ]
}

restart_chkservd() { timeout 120 $cpanel/scripts/restartsrv_chkservd >/dev/null 2>&1 9>&-; }

panel_join() {
	if written $appconfig || ! is_registered; then
		told_whm=yes
		out=$(register) || refuse "cPanel does not register the page: $(why "$out")"
		is_registered || refuse "cPanel did not register the page, although it said: $(why "$out")"
		say "registered the page in WHM"
	fi
	if written $chkservd/osmd || written $chkservd/chkservd.conf; then
		told_chkservd=yes
		restart_chkservd || warn "$cpanel/scripts/restartsrv_chkservd failed: cPanel's watchdog learns of osmd at its next start"
	fi
	add_hooks
	restart_exim
}

# panel_leave: while the programs that the hooks name are still there.
panel_leave() { remove_hooks; }

panel_left() {
	rm -f /var/run/chkservd/osmd
	if [ -e $registered ]; then
		told_whm=yes
		out=$(unregister) || refuse "cPanel does not take the page out of WHM: $(why "$out")"
		[ ! -e $registered ] || refuse "cPanel did not take the page out of WHM, although it said: $(why "$out")"
		say "took the page out of WHM"
	fi
	if [ -n "$unwatched" ]; then
		told_chkservd=yes
		restart_chkservd || warn "$cpanel/scripts/restartsrv_chkservd failed: cPanel's watchdog may still look for osmd until its next start"
	fi
	restart_exim
}

unwatched=

plan_panel_out() {
	want_no $cgi/index.cgi
	want_no_dir $cgi
	for f in $icon $appconfig $hook_maps $hook_upgraded; do want_no $f; done
	[ ! -e $chkservd/osmd ] || unwatched=yes
	want_no $chkservd/osmd
	[ ! -e $chkservd/chkservd.conf ] || give_back $chkservd/chkservd.conf chkservd_plain
	want_no "$(readlink -f $chkservd/chkservd.conf).osm-new"
}

chkservd_plain() { sed '/^osmd:/d' "$1"; }

# --- hooks -------------------------------------------------------------------
# They only make it quicker: osm watches the files of accounts and domains anyway.
# Where cPanel does not take one, nothing is lost, so it is no reason to stop.

hooks() {
	for event in Accounts::Create Accounts::Modify Accounts::Remove Accounts::change_package \
		Domain::park Domain::unpark Domain::addsubdomain Domain::delsubdomain; do
		say "$hook_maps Whostmgr $event"
	done
	say "$hook_upgraded System upcp"
}

hook() { # add|delete PROGRAM CATEGORY EVENT
	timeout 30 $cpanel/bin/manage_hooks "$1" script "$2" --manual --category "$3" --event "$4" --stage post </dev/null >/dev/null 2>&1 9>&-
}

add_hooks() {
	[ -x $cpanel/bin/manage_hooks ] || return 0
	listed=$(timeout 30 $cpanel/bin/manage_hooks list 2>/dev/null </dev/null 9>&-) || listed=
	remember $state/hooks
	hooks >"$work/hooks"
	while read -r program category event; do
		if grep -qsxF "$program $category $event" $state/hooks; then
			case ${listed:-$program} in *"$program"*) continue ;; esac
		fi
		case $listed in *"$program"*) hook delete "$program" "$category" "$event" || true ;; esac # never twice
		undo_with hook_off "$program" "$category" "$event"
		note hooks "$program $category $event"
		hook add "$program" "$category" "$event" || {
			not_taken="$not_taken $program/$category/$event "
			warn "manage_hooks did not take $program for $category $event"
		}
	done <"$work/hooks"
}

not_taken=

# hook_off takes back what add_hooks did, if cPanel took it.
hook_off() {
	case $not_taken in *" $1/$2/$3 "*) ;; *) hook delete "$@" ;; esac
}

remove_hooks() {
	[ -x $cpanel/bin/manage_hooks ] && [ -e $state/hooks ] || return 0
	undo_with hooks_back
	while read -r program category event; do
		hook delete "$program" "$category" "$event" || warn "manage_hooks did not take back $program for $category $event"
	done <$state/hooks
}

# hooks_back: all of them again, in their order.
hooks_back() {
	while read -r program category event; do
		hook delete "$program" "$category" "$event" || true
		hook add "$program" "$category" "$event" || true
	done <$state/hooks
}
