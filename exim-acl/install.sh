#!/bin/sh
# install.sh puts osm on a machine with Debian's Exim, or with cPanel, and takes it away
# again.
#
#   install.sh install   [--dry-run] [--fail-closed] [--bin DIR]
#   install.sh uninstall [--dry-run] [--purge] [--force]     force: although mail is
#       held or changes are in force
#   install.sh check
#   install.sh acl       [--fail-closed]      print the ACL text for an Exim set up by hand
#
# It asks Exim before and after, takes back everything it did when a step fails, and can
# be run again at any time. lib/plan.sh holds how files are changed and given back,
# lib/exim.sh how Exim is asked, lib/debian.sh or lib/cpanel.sh what it is told and
# where, lib/system.sh users, programs and units.
set -eu
umask 022
LC_ALL=C
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL PATH

here=$(cd "$(dirname "$0")" && pwd)
state=/var/lib/osm-install # what was there before; root's alone, unlike /var/lib/osm

say() { printf '%s\n' "$*"; }
warn() { printf 'warning: %s\n' "$*" >&2; }
refuse() {
	printf 'install.sh: %s\n' "$*" >&2
	exit 1
}
usage() {
	sed -n 's/^#   //p' "$0" >&2
	exit 2
}

. "$here/lib/plan.sh"
. "$here/lib/exim.sh"
. "$here/lib/system.sh"
if [ -e /usr/local/cpanel/version ]; then . "$here/lib/cpanel.sh"; else . "$here/lib/debian.sh"; fi

command=${1:-}
[ $# -gt 0 ] && shift
dry_run= fail_closed=no purge= force= bin=$here/../bin
while [ $# -gt 0 ]; do
	case $1 in
	--dry-run) dry_run=yes ;;
	--fail-closed) fail_closed=yes ;;
	--purge) purge=yes ;;
	--force) force=yes ;;
	--bin)
		[ $# -gt 1 ] || usage
		bin=$2
		shift
		;;
	*) usage ;;
	esac
	shift
done

install() {
	exim_before
	users_free
	plan_begin
	plan_programs
	plan_system
	plan_exim
	plan_panel
	if [ -n "$dry_run" ]; then
		plan_show
		show_users
		show_panel
		return
	fi
	guard
	panel_guard
	! has_systemd || undo_with restart_old # the first to be noted is the last to be done
	make_users
	plan_apply
	start_daemon
	exim_regenerate
	exim_after
	panel_join
	commit
	exim_reload
	finished
	report
}

uninstall() {
	exim_can_leave
	none_in_force
	if [ -n "$purge" ] && ! has_systemd && answers; then
		refuse "osmd runs; stop it first, nothing was changed"
	fi
	plan_begin
	plan_exim_out
	if [ -n "$dry_run" ]; then
		plan_exim_files_out
		plan_panel_out
		plan_system_out
		plan_show
		return
	fi
	guard
	panel_guard
	plan_apply
	exim_let_go
	# Exim no longer names them: now they may go.
	plan_next
	plan_exim_files_out
	plan_panel_out
	plan_system_out
	panel_leave
	plan_apply
	exim_left
	panel_left
	commit
	exim_reload
	system_gone
	say "osm is out of Exim.$([ -n "$purge" ] || printf ' Kept: %s (--purge removes them).' "$kept")"
}

case $command in
install | uninstall | check) [ "$(id -u)" = 0 ] || refuse "must be run as root" ;;
esac
case $command in
install | uninstall)
	exec 9>/run/osm-install.lock
	flock -w 10 9 || refuse "another install.sh is running" # or what one that was killed had started
	rm -rf $state.?????? # of a run that was killed
	"$command"
	;;
check) check ;;
acl) acl_text ;;
*) usage ;;
esac
