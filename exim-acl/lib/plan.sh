# plan.sh: how files are changed. First everything that is to be is written into a
# folder of our own and listed; then it is shown, or put in place, each file at once.
# What was there is kept until the end of the run, and given back if a step fails.
# Sourced by install.sh. Paths are our own and hold no blanks.

# It lies on the disk, for root alone: /run is memory, and the programs are large.
plan_begin() {
	work=$(mktemp -d $state.XXXXXX)
	saved=$state.kept-${work##*.}
	trap 'rm -rf "$work"' EXIT
	trap 'exit 1' HUP INT TERM
	mkdir "$work/old"
	: >"$work/undo"
	guarded= changes=0 step=0
	plan_next
}

# plan_next begins an empty plan; what was done so far can still be taken back.
plan_next() {
	step=$((step + 1))
	new=$work/new$step
	mkdir "$new"
	: >"$new.plan"
}

# want PATH MODE OWNER: PATH is to hold what stands on standard input.
want() {
	mkdir -p "$new${1%/*}"
	cat >"$new$1"
	printf 'put %s %s %s\n' "$1" "$2" "$3" >>"$new.plan"
}

# want_once is want for a file that is the operator's as soon as it is there.
want_once() {
	[ -e "$1" ] || want "$@"
}

want_dir() { printf 'dir %s %s %s\n' "$1" "$2" "$3" >>"$new.plan"; }
want_no() {
	for f in "$1" "$1.osm-new"; do # the second is of a run that was killed
		[ ! -e "$f" ] || printf 'del %s\n' "$f" >>"$new.plan"
	done
}
want_no_dir() { printf 'rmdir %s\n' "$1" >>"$new.plan"; }

# want_edited PATH: as want, for a file that is not ours: owner and mode stay, and what
# it was before our first change is kept until uninstall.
want_edited() {
	edited=$(real "$1")
	if [ -e "$edited" ]; then
		want "$edited" "$(stat -c %a "$edited")" "$(stat -c %u:%g "$edited")"
		cmp -s "$edited" "$new$edited" || printf 'keep %s\n' "$edited" >>"$new.keep"
	else
		want "$edited" 644 root:root
	fi
}

# real PATH: the file to be edited: where PATH is a symbolic link, what it leads to. A
# place that others can change would lead root's hand wherever they like.
real() {
	[ -L "$1" ] || {
		printf '%s' "$1"
		return 0
	}
	to=$(readlink -e "$1") || refuse "$1 is a symbolic link that leads nowhere; nothing was changed"
	case $to in
	*[[:space:]]*) refuse "$1 is a symbolic link to \"$to\": osm edits no file with a blank in its name; nothing was changed" ;;
	esac
	[ -f "$to" ] || refuse "$1 is a symbolic link to $to, which is no file; nothing was changed"
	dir=$to
	while [ -n "$dir" ]; do
		dir=${dir%/*}
		[ -z "$(find "${dir:-/}" -maxdepth 0 \( ! -user root -o -perm /022 \))" ] ||
			refuse "$1 is a symbolic link to $to, and others than root can change ${dir:-/}: put the file itself in the link's place; nothing was changed"
	done
	printf '%s' "$to"
}

kept_path() { printf '%s/%s' "$state" "$(printf '%s' "$1" | tr / %)"; }

same() { # PATH MODE OWNER
	[ -f "$1" ] && [ ! -L "$1" ] && cmp -s "$1" "$new$1" && [ "$(stat -c '%a %U:%G' "$1")" = "$2 $3" ] ||
		{ [ -f "$1" ] && cmp -s "$1" "$new$1" && [ "$(stat -c '%a %u:%g' "$1")" = "$2 $3" ]; }
}

plan_show() {
	while read -r what path mode owner; do
		case $what in
		put)
			same "$path" "$mode" "$owner" && continue
			changes=1
			if [ -e "$path" ]; then old=$path; else old=/dev/null; fi
			diff -u --label "$old" --label "$path" "$old" "$new$path" || true
			;;
		del)
			changes=1
			diff -u --label "$path" --label /dev/null "$path" /dev/null || true
			;;
		dir) [ -d "$path" ] || say "would make the folder $path ($mode $owner)" ;;
		rmdir) [ ! -d "$path" ] || say "would remove the folder $path if it is empty" ;;
		esac
	done <"$new.plan"
	[ "$changes" = 1 ] || say "nothing to change"
}

# guard: from here on a failure takes back what was done. After a run that was killed
# nobody knows whether Exim and osmd were told of what had changed: they are told again.
guard() {
	guarded=yes
	trap 'end $?' EXIT
	if [ ! -d "$state" ]; then
		mkdir -m 0700 "$state"
		printf 'rmtree %s\n' "$state" >>"$work/undo"
	fi
	[ ! -e "$state/unfinished" ] || unfinished=yes
	remember "$state/unfinished"
	: >"$state/unfinished"
}
unfinished=

finished() { rm -f "$state/unfinished"; }

end() {
	status=$1
	trap '' HUP INT TERM
	set +e
	if [ -n "$guarded" ]; then
		status=1
		take_back
		if [ -n "$lost" ]; then
			mv "$work" "$saved"
			printf 'install.sh: failed, and not everything could be taken back (see above); the files as they were before are in %s/old\n' "$saved" >&2
			exit 1
		fi
		printf 'install.sh: failed; everything is as it was before\n' >&2
	fi
	rm -rf "$work"
	exit "$status"
}

commit() {
	guarded=
	trap 'rm -rf "$work"' EXIT
}

# remember PATH: what is there now can be given back.
remember() {
	if [ -e "$1" ] || [ -L "$1" ]; then
		n=$(wc -l <"$work/undo")
		cp -a "$1" "$work/old/$n"
		printf 'restore %s %s\n' "$1" "$n" >>"$work/undo"
	else
		printf 'delete %s\n' "$1" >>"$work/undo"
	fi
}

# undo_with COMMAND...: how the step that follows is taken back.
undo_with() { printf 'run %s\n' "$*" >>"$work/undo"; }

# take_back tells of each step that could not be taken back, and goes on.
take_back() {
	rm -rf "$work"/new* # makes room for what comes back
	tac "$work/undo" >"$work/back"
	while read -r what path rest; do
		case $what in
		restore) restore "$path" "$work/old/$rest" || not_back "$path is not as it was: cp -a $saved/old/$rest $path" ;;
		delete) rm -f "$path" || not_back "$path is still there" ;;
		rmdir) [ ! -d "$path" ] || rmdir "$path" || not_back "$path is still there" ;;
		mkdir) mkdir -p "$path" && chown "${rest#* }" "$path" && chmod "${rest% *}" "$path" || not_back "the folder $path is not as it was" ;;
		rmtree) rm -rf "$path" || not_back "$path is still there" ;;
		run) $path $rest </dev/null >/dev/null 2>&1 || not_back "this failed: $path $rest" ;;
		esac
	done <"$work/back"
}
lost=

not_back() {
	warn "$*"
	lost=yes
}

restore() {
	cp -a "$2" "$1.osm-new" && mv -f "$1.osm-new" "$1" || {
		rm -f "$1.osm-new"
		return 1
	}
}

plan_apply() {
	[ ! -e "$new.keep" ] || while read -r _ path; do
		kept=$(kept_path "$path")
		[ -e "$kept" ] || {
			remember "$kept"
			remember "$kept.osm-new"
			cp -a "$path" "$kept.osm-new"
			mv -f "$kept.osm-new" "$kept"
		}
	done <"$new.keep"
	while read -r what path mode owner; do
		case $what in
		put) same "$path" "$mode" "$owner" || put "$path" "$mode" "$owner" ;;
		dir) [ -d "$path" ] || make_dir "$path" "$mode" "$owner" ;;
		del)
			remember "$path"
			rm -f "$path"
			say "removed $path"
			;;
		rmdir) [ ! -d "$path" ] || remove_dir "$path" ;;
		esac
	done <"$new.plan"
}

put() {
	make_parents "${1%/*}"
	remember "$1"
	remember "$1.osm-new"
	cat "$new$1" >"$1.osm-new"
	chown "$3" "$1.osm-new"
	chmod "$2" "$1.osm-new"
	mv -f "$1.osm-new" "$1"
	say "wrote $1"
	printf '%s\n' "$1" >>"$work/written"
}

# note LIST LINE: what is ours beside files, so that uninstall knows it. Written first: a
# run may be killed right after.
note() { grep -qsxF "$2" "$state/$1" || printf '%s\n' "$2" >>"$state/$1"; }

make_parents() {
	[ -d "$1" ] || {
		make_parents "${1%/*}"
		note folders "$1"
		make_dir "$1" 755 root:root
	}
}

make_dir() {
	mkdir "$1"
	printf 'rmdir %s\n' "$1" >>"$work/undo"
	chown "$3" "$1"
	chmod "$2" "$1"
	say "made $1"
}

remove_dir() {
	was=$(stat -c '%a %u:%g' "$1")
	rmdir "$1" 2>/dev/null || return 0
	printf 'mkdir %s %s\n' "$1" "$was" >>"$work/undo"
}

written() { grep -qxF "$1" "$work/written" 2>/dev/null; }
