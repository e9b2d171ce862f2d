# What the stand-ins for whmapi1 and uapi have in common: the accounts and mailboxes of
# cPanel's files, and the faults that a test can switch on.
#
# All files lie below $STANDIN_ROOT ("" = this machine). State: var/cpanel/suspended/USER,
# suspendinfo/USER, users/USER, etc/outgoing_mail_hold_users, and the passwords of mailboxes
# in HOME/etc/DOMAIN/shadow. $STANDIN_DIR (run/standin below the root) holds what cPanel has
# no file for, "calls", and "faults": a line for each, "WORD" or "WORD FUNCTION".
#
#   profile-a  result 0, exit 0          profile-b  the same, exit 1
#   profile-c  text on stderr, exit 1    profile-d  hangs
#   profile-e  no output, exit 0         (none of them does anything)
#   slow            answers after 3 s          hang-after   does it, then hangs
#   noise           warnings on stderr         fail-after   does it, and says result 0
#   text-before     and text before the JSON   lies         result 1, but does nothing
#   strings         numbers as strings         rubbish      does nothing and prints no JSON
#   no-data         no "data"                  endless      prints without end
#   refused-exit-1  exit 1 where it refuses    flat         uapi: the inner object alone
#   suspended-ok    suspendacct of a suspended account succeeds, and changes nothing
#   suspended-over  … succeeds, and takes the place of the reason
#   raced           somebody else suspends the account just before suspendacct
#   keeps-stash     a blocked login leaves "!!" alone in shadow, the hash elsewhere
#   unmarked        … leaves shadow as it is
#   no-login-field  list_pops does not tell of blocked logins
#   unlocks         a new password ends the block of the login
use strict;
use warnings;

our $root = $ENV{STANDIN_ROOT} // '';
our $own  = $ENV{STANDIN_DIR} // "$root/run/standin";
our (%options, %faults);

# --- arguments

sub decoded { my ($s) = @_; $s =~ tr/+/ /; $s =~ s/%([0-9A-Fa-f]{2})/chr hex $1/ge; return $s }

sub options {
	my @words;
	for my $w (@_) {
		if ($w =~ /^--([a-z]+)=(.*)$/s) { $options{$1} = $2 }
		else { push @words, $w }
	}
	my $format = $options{output} // 'yaml';
	return ($format, @words);
}

sub option { return $options{$_[0]} // '' }

sub arguments {
	my %arg;
	for my $w (@_) {
		my ($k, $v) = split /=/, $w, 2;
		$arg{$k} = decoded($v // '');
	}
	return %arg;
}

sub noted {
	mkdir $own unless -d $own;
	open my $f, '>>', "$own/calls" or die "$own/calls: $!";
	print $f join("\x1f", @_) =~ s/\n/\\n/gr, "\n";
	close $f;
}

# --- files

sub text {
	my ($path) = @_;
	open my $f, '<', "$root$path" or return undef;
	local $/;
	my $t = <$f>;
	close $f;
	return $t // '';
}

sub put { # whole or not at all, with owner and mode as before
	my ($path, $text) = @_;
	my @st = stat "$root$path";
	open my $f, '>', "$root$path.new" or die "$root$path: $!";
	print $f $text;
	close $f;
	if (@st) { chmod $st[2] & 07777, "$root$path.new"; chown $st[4], $st[5], "$root$path.new" }
	rename "$root$path.new", "$root$path" or die "$root$path: $!";
}

sub account { my ($user) = @_; return defined $user && $user =~ /^[A-Za-z0-9][A-Za-z0-9._-]*$/ && -e "$root/var/cpanel/users/$user" }

sub flag { # sets or removes lines KEY=… in the account's file
	my ($user, %set) = @_;
	my $t = text("/var/cpanel/users/$user");
	for my $k (sort keys %set) {
		$t =~ s/^\Q$k\E=.*\n//mg;
		$t .= "$k=$set{$k}\n" if defined $set{$k};
	}
	put("/var/cpanel/users/$user", $t);
}

sub lines { my $t = text($_[0]); return defined $t ? split(/\n/, $t) : () }

# --- whmapi1's functions: (result, reason, data, raw)

sub missing { return (0, "API failure: (XID ab12cd) Provide the \"$_[0]\" argument.") }

sub suspend_account {
	my ($user, $reason) = @_;
	return missing('user') unless defined $user;
	return (0, "You do not have an account named \"$user\".") unless account($user);
	mkdir "$root/var/cpanel/$_" for grep { !-d "$root/var/cpanel/$_" } 'suspended', 'suspendinfo';
	put("/var/cpanel/suspended/$user", 'unpaid bill 7') if fault('raced', 'suspendacct');
	if (-e "$root/var/cpanel/suspended/$user") {
		return (1, 'OK', undef, "already suspended\n") if fault('suspended-ok', 'suspendacct');
		return (0, "$user is already suspended") unless fault('suspended-over', 'suspendacct');
		put("/var/cpanel/suspended/$user", $reason // '');
		return (1, 'OK', undef, "suspended again\n");
	}
	put("/var/cpanel/suspended/$user", ($reason // '') eq '' ? 'Unknown' : $reason);
	put("/var/cpanel/suspendinfo/$user", "shell=/bin/bash\n");
	flag($user, SUSPENDED => 1, SUSPENDTIME => time);
	shadows($user, sub { '*LOCKED*' . $_[0] });
	return (1, "$user\'s account has been suspended", undef, "Changing shell to /bin/false...\nDone\n");
}

sub unsuspend_account {
	my ($user) = @_;
	return missing('user') unless defined $user;
	return (0, "You do not have an account named \"$user\".") unless account($user);
	return (0, "$user is not suspended") unless -e "$root/var/cpanel/suspended/$user";
	unlink "$root/var/cpanel/suspended/$user", "$root/var/cpanel/suspendinfo/$user";
	flag($user, SUSPENDED => undef, SUSPENDTIME => undef);
	shadows($user, sub { $_[0] =~ s/^\*LOCKED\*//r });
	return (1, "$user\'s account is now active", undef, "Unlocking password\n");
}

sub hold_line {
	my ($name, $on) = @_;
	my $file = '/etc/outgoing_mail_hold_users';
	my @others = grep { $_ ne $name } lines($file);
	put($file, join '', map { "$_\n" } $on ? sort(@others, $name) : @others);
}

sub hold_account {
	my ($user, $on) = @_;
	return missing('user') unless defined $user;
	return (0, '“root” is not a valid “user” for this operation.') if $user eq 'root';
	return (0, "The user “$user” does not exist.") unless account($user);
	hold_line($user, $on);
	flag($user, OUTGOING_MAIL_HOLD => $on ? time : undef);
	return (1, 'OK');
}

sub account_summary {
	my ($user) = @_;
	return (0, 'Account does not exist.') unless account($user);
	my $t = text("/var/cpanel/users/$user");
	my $why = text("/var/cpanel/suspended/$user");
	return (1, 'OK', {acct => [{
		user => $user, domain => "$user.example", owner => 'root', plan => 'default', disklimit => 'unlimited',
		suspended => number($t =~ /^SUSPENDED=1$/m ? 1 : 0), suspendreason => $why // 'not suspended',
		outgoing_mail_hold => number($t =~ /^OUTGOING_MAIL_HOLD=/m ? 1 : 0), outgoing_mail_suspended => number(0),
	}]});
}

sub list_suspended {
	opendir my $d, "$root/var/cpanel/suspended" or return (1, 'OK', {account => []});
	my @users = grep { !/^\./ && !/\.lock$/ } sort readdir $d;
	return (1, 'OK', {account => [map { {user => $_, owner => 'root', reason => text("/var/cpanel/suspended/$_"), unixtime => number(time), is_locked => number(0)} } @users]});
}

# --- uapi's functions

sub home { my @pw = getpwnam $_[0]; return $pw[7] // "/home/$_[0]" }

sub domains { my ($user) = @_; return map { /^(\S+): \Q$user\E$/ ? $1 : () } lines('/etc/userdomains') }

sub shadows { # changes every password of the account's mailboxes
	my ($user, $change) = @_;
	for my $domain (domains($user)) {
		my $path = home($user) . "/etc/$domain/shadow";
		my @l = lines($path) or next;
		for my $l (@l) { $l =~ s/^([^:]*):([^:]*)/$1 . ':' . $change->($2)/e }
		put($path, join '', map { "$_\n" } @l);
	}
}

sub mailbox { # its shadow file, or nothing if it is not that account's
	my ($user, $email) = @_;
	my ($local, $domain) = ($email // '') =~ /^([^@\/:]+)@([A-Za-z0-9.-]+)$/ or return;
	return unless grep { $_ eq $domain } domains($user);
	my $path = home($user) . "/etc/$domain/shadow";
	return unless grep { /^\Q$local\E:/ } lines($path);
	return ($path, $local, $domain);
}

sub set_password { # by what it is now
	my ($path, $local, $change) = @_;
	my @l = lines($path);
	for my $l (@l) { $l =~ s/^(\Q$local\E):([^:]*)/$1 . ':' . $change->($2)/e }
	put($path, join '', map { "$_\n" } @l);
}

sub password { my ($path, $local) = @_; for (lines($path)) { return $1 if /^\Q$local\E:([^:]*)/ } return '' }

sub blocked { my ($path, $local, $email) = @_; return password($path, $local) =~ /^!!/ || -e "$own/blocked-$email" }

sub no_mailbox { my ($user, $email) = @_; return (0, "“$user” does not have an email account named “" . ($email // '') . '”.') }

sub block_login {
	my ($user, $email, $on) = @_;
	return (0, 'Provide the “email” parameter.') unless defined $email;
	my ($path, $local) = mailbox($user, $email) or return no_mailbox($user, $email);
	my $is = blocked($path, $local, $email);
	return (1, undef, undef) if !!$is == !!$on;
	if ($on && fault('unmarked', 'suspend_login')) { stash($email, '') }
	elsif ($on && fault('keeps-stash', 'suspend_login')) { stash($email, password($path, $local)); set_password($path, $local, sub { '!!' }) }
	elsif ($on) { set_password($path, $local, sub { "!!$_[0]" }) }
	else {
		my $kept = unstash($email);
		set_password($path, $local, sub { $_[0] eq '!!' ? $kept : $_[0] =~ s/^!!//r });
	}
	return (1, undef, undef);
}

sub stash { my ($email, $text) = @_; open my $f, '>', "$own/blocked-$email" or die "$own: $!"; print $f $text; close $f }

sub unstash {
	my ($email) = @_;
	open my $f, '<', "$own/blocked-$email" or return '';
	my $t = <$f> // '';
	close $f;
	unlink "$own/blocked-$email";
	return $t;
}

sub hold_mailbox {
	my ($user, $email, $on) = @_;
	return (0, 'Provide the “email” parameter.') unless defined $email;
	mailbox($user, $email) or return no_mailbox($user, $email);
	hold_line($email, $on);
	return (1, undef, undef);
}

sub mailboxes {
	my ($user) = @_;
	my @all;
	for my $domain (domains($user)) {
		my $path = home($user) . "/etc/$domain/shadow";
		push @all, map { /^([^:]+):/ ? [$path, $1, "$1\@$domain"] : () } lines($path);
	}
	return @all;
}

sub list_pops {
	my ($user, $regex) = @_;
	my @list;
	for my $m (mailboxes($user)) {
		next if defined $regex && $m->[2] !~ /$regex/;
		my %pop = (email => $m->[2], login => $m->[2], suspended_incoming => number(0));
		$pop{suspended_login} = number(blocked(@$m) ? 1 : 0) unless fault('no-login-field', 'list_pops');
		push @list, \%pop;
	}
	return (1, undef, \@list);
}

sub list_pops_with_disk {
	my ($user, $local, $domain, $restrictions) = @_;
	my %held = map { $_ => 1 } lines('/etc/outgoing_mail_hold_users');
	my @list;
	for my $m (mailboxes($user)) {
		next if defined $local && $m->[1] ne $local;
		next if defined $domain && $m->[2] !~ /\@\Q$domain\E$/;
		my %pop = (email => $m->[2], login => $m->[2], diskused => '0', diskquota => 'unlimited');
		if ($restrictions) {
			$pop{hold_outgoing} = number($held{$m->[2]} ? 1 : 0);
			$pop{suspended_login} = number(blocked(@$m) ? 1 : 0);
		}
		push @list, \%pop;
	}
	return (1, undef, \@list);
}

sub change_password {
	my ($user, $email, $domain, $password) = @_;
	$email .= "\@$domain" if defined $domain && ($email // '') !~ /@/;
	my ($path, $local) = mailbox($user, $email) or return no_mailbox($user, $email);
	my $hash = crypt($password, '$6$' . sprintf('%08x', rand 0xffffffff));
	if (fault('unlocks', 'passwd_pop')) { unstash($email); set_password($path, $local, sub { $hash }) }
	else { set_password($path, $local, sub { $_[0] =~ /^(!!|\*LOCKED\*)/ ? "$1$hash" : $hash }) }
	return (1, undef, undef);
}

# --- faults and answers

sub fault {
	my ($word, $function) = @_;
	%faults = map { $_ => 1 } do { open my $f, '<', "$own/faults"; $f ? map { s/\s+$//r } <$f> : () } unless %faults;
	return $faults{$word} || $faults{"$word $function"};
}

sub hang { open my $f, '>', "$own/hanging" or die "$own: $!"; print $f $$; close $f; sleep 600; exit 0 }

# with_faults does what the function is there for, or what a fault makes of it.
sub with_faults {
	my ($function, $do) = @_;
	sleep 3 if fault('slow', $function);
	if (fault('noise', $function)) { print STDERR "Use of uninitialized value \$x{'a'} in hash element at {eval} line $_.\n" for 1 .. 40 }
	hang() if fault('profile-d', $function);
	exit 0 if fault('profile-e', $function);
	if (fault('profile-c', $function)) { print STDERR "(XID ab12cd) The function is not\nto be had: \e[1mno\e[0m\n"; exit 1 }
	if (fault('endless', $function)) { print '{"metadata":' x 1000 while 1 }
	if (fault('rubbish', $function)) { print "<html>{\"half\": [1, 2\n"; exit 0 }
	return (0, "it cannot be done now\n<b>try</b> later") if fault('profile-a', $function) || fault('profile-b', $function);
	return (1, 'OK', undef) if fault('lies', $function);
	my @done = $do->();
	hang() if fault('hang-after', $function);
	return (0, 'the connection was lost') if fault('fail-after', $function);
	return @done;
}

sub answer {
	my ($format, $function, $ok, $envelope) = @_;
	print "Setting up {the} environment: 1 {\"a\":1}\n" if fault('text-before', $function);
	if ($format !~ /^json/) { print "---\n# the stand-in knows no YAML\n" }
	else { print json($envelope, fault('strings', $function)), "\n" }
	exit 1 if fault('profile-b', $function) || (!$ok && fault('refused-exit-1', $function));
	exit 0;
}

# JSON without a module, as there is none in the smallest Perl.
sub number { my $n = $_[0]; return \$n }

sub json {
	my ($v, $strings) = @_;
	return 'null' unless defined $v;
	return $strings ? "\"$$v\"" : "$$v" if ref $v eq 'SCALAR';
	return '[' . join(',', map { json($_, $strings) } @$v) . ']' if ref $v eq 'ARRAY';
	return '{' . join(',', map { json($_) . ':' . json($v->{$_}, $strings) } sort keys %$v) . '}' if ref $v eq 'HASH';
	$v =~ s/(["\\])/\\$1/g;
	$v =~ s/([\x00-\x1f])/sprintf '\\u%04x', ord $1/ge;
	return "\"$v\"";
}

1;
