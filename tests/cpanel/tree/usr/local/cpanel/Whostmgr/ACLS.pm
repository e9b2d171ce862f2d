package Whostmgr::ACLS;

# A stand-in for the part of cPanel's module that plugins call: what may the user do who
# is logged in to WHM? Without init_acls nobody may do anything.
use strict;
use warnings;

our %ACL;

sub init_acls {
    my $user = $ENV{REMOTE_USER} // '';
    %ACL = $user eq 'root' ? ( all => 1 ) : ();
    open my $f, '<', '/var/cpanel/resellers' or return;
    while (<$f>) {
        my ( $name, $list ) = /^([^:\s]+):(\S*)$/ or next;
        %ACL = map { ( $_ => 1 ) } split /,/, $list if $name eq $user && $user ne 'root';
    }
    return;
}

sub hasroot { return $ACL{all} ? 1 : 0 }

sub checkacl { return $ACL{all} || $ACL{ $_[0] } ? 1 : 0 }

1;
