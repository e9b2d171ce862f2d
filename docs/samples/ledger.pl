#!/usr/bin/perl -T
# ledger.pl LEDGER REPORT: adds a line about a report to a file, fields separated by tabs.
#
#   [[script]]
#   name    = "ledger"
#   command = ["/etc/osm/scripts/ledger.pl", "/var/log/osm-scripts/ledger.tsv"]
#   user    = "osm-scripts"      # a user made for this, who may write the ledger
#   file    = true               # the report's path is added as the last argument
#
# The report is a Perl data structure, read by "do": that runs it as a program. osm writes
# nothing but data into it, but who runs it trusts osmd. So never as root: osmd has no right
# of root's, and must not get one in this way.
use strict;
use warnings;

die "ledger.pl: not as root: the report is a program\n" if $> == 0;
@ARGV == 2 or die "ledger.pl: want a ledger and a report\n";
my ($ledger, $file) = map { m{\A(/[^\0]*)\z} ? $1 : die "ledger.pl: no absolute path: $_\n" } @ARGV;

my $report = do $file;
ref $report eq 'HASH' or die 'ledger.pl: cannot read the report: ' . ($@ || $! || 'it holds no data') . "\n";
($report->{schema} // '') =~ m{\Aosm-report/1} or die "ledger.pl: this is no report that I know\n";

my $event  = $report->{event};
my @fields = (
    @$event{qw(id at trigger account mailbox key used max stopped verdict mode)},
    map { join ',', map { $_->{value} } @{ $report->{top}{$_}{most} } } qw(client_ips scripts subjects)
);
for (@fields) {
    $_ //= '';
    s/([\\\x00-\x1f\x7f])/sprintf '\\x%02x', ord $1/ge;    # a tab or a line end is the spammer's
}
open my $out, '>>', $ledger or die "ledger.pl: $ledger: $!\n";
print {$out} join("\t", @fields) . "\n" and close $out or die "ledger.pl: $ledger: $!\n";
print "wrote down event $event->{id}\n";
