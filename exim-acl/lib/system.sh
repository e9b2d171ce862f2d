# system.sh: users, programs, settings and units. Sourced by install.sh.

programs="osmd osmctl"
units="osmd.service osm-policy.socket osm-control.socket osm-inspect.service osm-inspect.socket osm-executor.service osm-executor.socket osm-watch.service osm-watch.socket"
started="osm-policy.socket osm-control.socket osm-inspect.socket osm-executor.socket osm-watch.socket osmd.service"
services="osmd.service osm-inspect.service osm-executor.service osm-watch.service"
unit_dir=/etc/systemd/system
man_dir=/usr/local/share/man

# answers: somebody listens on the socket.
answers() { grep -qs ' /run/osm/policy.sock$' /proc/net/unix; }

has_systemd() { [ -d /run/systemd/system ]; }

plan_programs() {
	for p in $programs; do
		[ -x "$bin/$p" ] || refuse "there is no $bin/$p: build it first (make build); nothing was changed"
		want /usr/local/sbin/$p 755 root:root <"$bin/$p"
	done
}

plan_system() {
	want_dir /etc/osm 755 root:root
	[ ! -e "$here/../internal/config/osm.toml" ] || osm_settings | want_once /etc/osm/osm.toml 644 root:root
	executor_settings | want_once /etc/osm/executor.toml 644 root:root
	want_dir /var/lib/osm 750 osm:osm
	want /etc/logrotate.d/osm 644 root:root <"$here/systemd/osm.logrotate"
	for page in "$here"/../docs/man/*.[1-9]; do
		[ ! -e "$page" ] || want "$man_dir/man${page##*.}/${page##*/}" 644 root:root <"$page"
	done
	has_systemd || return 0
	for u in $units; do
		OSM_EXIMGROUP=$(exim_group) OSM_EXIMPATHS=$(exim_paths) OSM_HOMEPATHS=$(home_paths) fill "$here/systemd/$u" | want $unit_dir/$u 644 root:root
	done
}

# home_paths: the folders that the accounts' homes are in, at most two names deep, where the
# part that runs as root must be able to rename scripts. A user whose home is in one of the
# system's folders does not open that to it.
home_paths() {
	{
		echo /home
		getent passwd | awk -F: '$3 >= 1000 && $3 < 65534 && $6 ~ "^(/[A-Za-z0-9_][A-Za-z0-9_.-]*)+$" {
			n = split($6, part, "/")
			if (n < 3) next
			if (part[2] ~ "^(bin|boot|dev|etc|lib[0-9a-z]*|opt|proc|root|run|sbin|sys|tmp|usr|var)$" && $6 !~ "^/var/www/") next
			print "/" part[2] (n > 3 ? "/" part[3] : "")
		}'
	} | sort -u | sed 's/^/-/' | tr '\n' ' ' | sed 's/ $//'
}

# none_in_force refuses to leave what nothing could take back any more, for uninstall.
none_in_force() {
	standing=$(ls $changed 2>/dev/null | grep -c '\.json$') || true
	[ -n "$force" ] || [ "${standing:-0}" = 0 ] ||
		refuse "$standing changes that osm made are still in force (osmctl actions): suspended accounts, blocked mailboxes and addresses, renamed scripts. Without osm they stay as they are. Undo them first (osmctl undo), or leave them with --force; nothing was changed"
}
changed=/var/lib/osm-executor # what the part that runs as root changed, to take it back

executor_settings() {
	cat <<-'END'
		# executor.toml: what the part of osm that runs as root may do. It is root's own: nothing
		# that osmd, its database or a request says can change it.
	END
	executor_more
}

has_group() { getent group "$1" >/dev/null; }
has_user() { getent passwd "$1" >/dev/null; }

show_users() {
	for g in osm osm-admin; do has_group $g || say "would make the group $g"; done
	has_user osm || say "would make the user osm"
}

# users_free refuses to take over a user or a group osm that is somebody else's: osm's
# database and root's helpers would be theirs.
users_free() {
	if has_user osm && ! grep -qsxF "user osm" "$state/users"; then
		getent passwd osm | {
			IFS=: read -r _ _ uid _ _ home shell
			case ${shell##*/} in nologin | false) shell= ;; esac
			[ "$uid" -gt 0 ] && [ "$uid" -lt 1000 ] && [ -z "$shell" ] && [ "$home" = /var/lib/osm ] ||
				refuse "there is a user osm (uid $uid, home $home${shell:+, shell $shell}) that osm did not make: it must be a system user with the home /var/lib/osm and no shell to log in; nothing was changed"
		}
	fi
	if has_group osm && ! grep -qsxF "group osm" "$state/users"; then
		others=$(members osm)
		[ -z "$others" ] || refuse "there is a group osm that osm did not make, with ${others% } in it, who could ask osm's helpers that run as root; nothing was changed"
	fi
	if has_group osm-admin && ! grep -qsxF "group osm-admin" "$state/users"; then
		others=$(members osm-admin)
		[ -z "$others" ] || warn "the group osm-admin was there before; who is in it rules osm: $others"
	fi
}

# members GROUP: who is in it, but the user osm.
members() {
	{
		getent group "$1" | cut -d: -f4 | tr , '\n'
		getent passwd | awk -F: -v gid="$(getent group "$1" | cut -d: -f3)" '$4 == gid { print $1 }'
	} | grep -vx -e osm -e '' | sort -u | tr '\n' ' '
}

# drop KIND NAME: the group of a user goes with him where it is his own.
drop() {
	case $1 in
	user) ! has_user "$2" || userdel "$2" ;;
	group) ! has_group "$2" || groupdel "$2" ;;
	esac
}

make_users() {
	remember "$state/users"
	for g in osm osm-admin; do
		has_group $g || {
			note users "group $g"
			undo_with drop group $g
			groupadd --system $g
			say "made the group $g"
		}
	done
	has_user osm || {
		note users "user osm"
		undo_with drop user osm
		useradd --system --gid osm --home-dir /var/lib/osm --no-create-home --shell /usr/sbin/nologin --comment "osm mail policy" osm
		say "made the user osm"
	}
	case " $(id -nG osm) " in
	*" $(exim_group) "*) warn "the user osm is in Exim's group: take it out (gpasswd -d osm $(exim_group)), it needs no right of Exim's" ;;
	esac
}

# start_daemon: under systemd the sockets stay open while the programs are replaced, so
# that a question is only delayed.
start_daemon() {
	has_systemd || return 0
	systemctl is-enabled --quiet osmd.service 2>/dev/null || undo_with systemctl disable --now $started
	systemctl daemon-reload
	stale=$(stale_sockets)
	[ -z "$stale" ] && ! replaced || systemctl try-restart $stale $services
	systemctl enable --quiet --now $started
}
stale=

# stale_sockets: those that are not as their unit says: it was written just now, or the
# socket was made for another group than Exim has now. Started anew together with the
# services: systemd opens no socket of a service that runs.
stale_sockets() {
	for u in $units; do
		case $u in *.socket) ;; *) continue ;; esac
		path=$(sed -n 's/^ListenStream=//p' $unit_dir/$u)
		group=$(sed -n 's/^SocketGroup=//p' $unit_dir/$u)
		! written $unit_dir/$u && [ -z "$unfinished" ] && { [ ! -S "$path" ] || [ "$(stat -c %G "$path")" = "$group" ]; } || printf '%s ' $u
	done
}

# replaced: what runs may be older than what is installed.
replaced() {
	[ -z "$unfinished" ] || return 0
	for u in $services; do ! written $unit_dir/$u || return 0; done
	written /usr/local/sbin/osmd
}

# restart_old: after everything was taken back.
restart_old() {
	systemctl daemon-reload
	systemctl try-restart $stale $services || true # they may not have been there before
}

plan_system_out() {
	if has_systemd && [ -z "$dry_run" ] && [ -e $unit_dir/osmd.service ]; then
		undo_with systemctl enable --now $started
		systemctl disable --quiet --now $started osm-inspect.service osm-executor.service osm-watch.service || true
	fi
	for u in $units; do want_no $unit_dir/$u; done
	for p in $programs; do want_no /usr/local/sbin/$p; done
	for page in "$here"/../docs/man/*.[1-9]; do
		want_no "$man_dir/man${page##*.}/${page##*/}"
	done
	want_no /etc/logrotate.d/osm
	if [ -n "$purge" ]; then
		want_no /etc/osm/osm.toml
		want_no /etc/osm/executor.toml
		want_no_dir /etc/osm
	fi
	[ ! -e "$state/folders" ] || for d in $(sort -r "$state/folders"); do want_no_dir "$d"; done
}

drop_all() {
	tac "$state/users" | {
		left=
		while read -r kind name; do drop "$kind" "$name" || left=yes; done
		[ -z "$left" ]
	}
}

# firewall_gone takes the addresses and accounts out that are blocked still: nobody would
# lift those that have no end. The tables are ours alone; csf's lists are the operator's, and
# stay.
firewall_gone() {
	nft=$(command -v nft) || return 0
	left=
	for table in osm osm_direct; do
		"$nft" list table inet "$table" >/dev/null 2>&1 || continue
		"$nft" delete table inet "$table" && say "took osm's table $table out of nftables: nobody is blocked by it any more" || left=yes
	done
	[ -z "$left" ]
}

# system_gone: what cannot be taken back, after everything else has gone well.
system_gone() {
	! has_systemd || systemctl daemon-reload
	firewall_gone || warn "a table of osm stays in nftables: nft delete table inet osm, nft delete table inet osm_direct"
	if answers; then
		say "osmd still runs: stop it."
	else
		rm -rf /run/osm /run/osm-executor 2>/dev/null || true
	fi
	if [ -n "$purge" ]; then
		rm -rf /var/lib/osm $changed
		[ ! -e "$state/users" ] || drop_all || refuse "everything is gone but the user or a group of osm: run this again"
		rm -rf $state
	else
		kept="/etc/osm$([ ! -d $changed ] || printf ', %s' $changed) and /var/lib/osm"
		find $state -mindepth 1 ! -name users -delete
		rmdir $state 2>/dev/null || true
	fi
}

asks_about="every outgoing message" # unless the administrator wants less

report() {
	timers
	case $answer in
	asked) say "Exim asks osmd about $asks_about, and osmd answers." ;;
	down | unreached) say "Exim asks about $asks_about; osmd does not answer yet, so all mail passes unchecked." ;;
	esac
	if [ -x /usr/sbin/cagefsctl ]; then
		warn "users in CageFS cannot reach the socket yet, so their mail passes unchecked: add the line /run/osm to /etc/cagefs/cagefs.mp and run cagefsctl --remount-all"
	fi
	if has_systemd || { [ $answer = asked ] && ! written /usr/local/sbin/osmd; }; then
		return
	fi
	if [ $answer = asked ]; then
		say "osmd still runs as it was before: stop it, and start it again with"
	else
		say "There is no systemd here. This starts the daemon, as root, in the foreground:"
	fi
	say "osmd -config /etc/osm/osm.toml"
}

# check names each piece that is missing or not as it was installed.
check() {
	exim_can_change
	work=$(mktemp -d $state.XXXXXX)
	trap 'rm -rf "$work"' EXIT
	bad=0
	! grep -q 'condition   = yes' $policy 2>/dev/null || fail_closed=yes
	new=$work/new step=1
	mkdir "$new"
	: >"$new.plan"
	plan_system
	plan_exim
	plan_panel
	while read -r what path mode owner; do
		case $what in
		put) case $path in
			/etc/osm/*) missing "$path" ;;
			*) same "$path" "$mode" "$owner" || missing "$path: not as it was installed; run install again" ;;
			esac ;;
		dir) [ -d "$path" ] || missing "$path: the folder is not there" ;;
		esac
	done <"$new.plan"
	for p in $programs; do [ -x /usr/local/sbin/$p ] || missing "/usr/local/sbin/$p: the program is not there"; done
	has_user osm || missing "the user osm"
	has_group osm-admin || missing "the group osm-admin"
	check_hooks
	timers
	[ $bad = 0 ] && say "complete"
	return $bad
}

missing() {
	say "missing: $*"
	bad=1
}
