#!/usr/local/cpanel/3rdparty/bin/perl
# index.cgi: osm's page inside WHM. WHM logs the user in and starts this program as root,
# for resellers too. It looks who that is and what he may do, hands the request to osmd on
# its Unix socket, and gives back what osmd answers; the pages themselves are osmd's.
#
#   index.cgi                  WHM's frame, with the page in an iframe
#   index.cgi?p=PAGE&a=b …     what osmd answers on /web/PAGE?a=b
#
# PAGE is a path that is escaped already; of the query it is unescaped once. What the
# browser says reaches osmd only in the headers named below, so that nobody can pretend to
# be somebody else by a header of his own.
#
# It needs nothing but Perl's own modules. Where cPanel's are missing it goes by
# /var/cpanel/resellers, as cPanel's documentation has it for other languages.
use strict;
use warnings;

BEGIN { unshift @INC, '/usr/local/cpanel' }
use IO::Socket::UNIX ();

my $SOCKET   = $ENV{OSM_CONTROL_SOCKET} || '/run/osm/control.sock';
my $RESELLER = 'track-email';    # who may see delivery reports of his accounts may see this
my $MAX_BODY = 1 << 20;
my $MAX_HEAD = 64 << 10;
my $MAX_TIME = 75;               # seconds; osmd gives up after 60

binmode STDIN;
binmode STDOUT;
$SIG{PIPE} = 'IGNORE';
if ( !caller ) {
    main();
    close STDOUT;    # a browser that has gone is no error
}

sub main {
    my ( $user, $role ) = visitor();
    if ( !$role ) {
        return problem( 403, 'Not allowed', "osm's page is for root, and for resellers who may see email delivery reports (track-email)." );
    }
    my ( $page, $query, $wrong ) = asked();
    return problem( 400, 'Not understood', $wrong ) if $wrong;
    return frame() if !defined $page;
    my $method = $ENV{REQUEST_METHOD} // 'GET';
    if ( $method !~ /\A(?:GET|HEAD|POST)\z/ ) {
        return problem( 405, 'Not understood', 'Pages are asked with GET and changed with POST.' );
    }
    my ( $body, $status, $why ) = body($method);
    return problem( $status, 'Not taken', $why ) if $status;
    return forward( "$method /web/$page" . ( length $query ? "?$query" : '' ), $body, headers( $user, $role ) );
}

# visitor is who has logged in to WHM, and 'operator', 'reseller' or nothing.
sub visitor {
    my ($user) = ( $ENV{REMOTE_USER} // '' ) =~ /\A([A-Za-z0-9_][A-Za-z0-9_.-]{0,63})\z/ or return;
    my $role = eval {
        require Whostmgr::ACLS;
        Whostmgr::ACLS::init_acls();
        Whostmgr::ACLS::hasroot() ? 'operator' : Whostmgr::ACLS::checkacl($RESELLER) ? 'reseller' : 'nobody';
    } // listed($user);
    $role = '' if $role eq 'nobody' || ( $user eq 'root' && $role ne 'operator' );
    return ( $user, $role );
}

# listed says the same from the file in which cPanel keeps it.
sub listed {
    my ($user) = @_;
    return 'operator' if $user eq 'root';
    open my $file, '<', '/var/cpanel/resellers' or return 'nobody';
    while (<$file>) {
        my ( $name, $list ) = /\A([^:\s]+):(\S*)/ or next;
        next if $name ne $user;
        my %may = map { ( $_ => 1 ) } split /,/, $list;
        return $may{all} ? 'operator' : $may{$RESELLER} ? 'reseller' : 'nobody';
    }
    return 'nobody';
}

# asked takes the page out of the query: nothing if none is named. A path that leads up, or
# that holds what no path can, is refused.
sub asked {
    my ( @pages, @rest );
    for ( split /&/, $ENV{QUERY_STRING} // '' ) {
        if (/\Ap(?:=(.*))?\z/s) { push @pages, $1 // '' }
        elsif (length)          { push @rest,  $_ }
    }
    return if !@pages;
    return ( '', '', 'The address names several pages.' ) if @pages > 1;
    my $page = $pages[0];
    $page =~ tr/+/ /;
    $page =~ s/%([0-9A-Fa-f]{2})/chr hex $1/ge;
    if ( length $page > 2048 || $page =~ m{\A/|(?:\A|/)\.\.?(?:/|\z)|[\x00-\x1f\x7f]} ) {
        return ( '', '', 'The address names no page.' );
    }
    $page =~ s/%(?![0-9A-Fa-f]{2})/%25/g;
    $page =~ s/([^A-Za-z0-9_.~!\$&'()*+,;=:@%\/-])/sprintf '%%%02X', ord $1/ge;
    my $rest = join '&', @rest;
    $rest =~ s/([^\x21-\x7e])/sprintf '%%%02X', ord $1/ge;
    return ( $page, $rest, '' );
}

# body reads what a form sends: as much as was announced, and no more than osmd takes.
sub body {
    my ($method) = @_;
    return ('') if $method ne 'POST';
    my ($length) = ( $ENV{CONTENT_LENGTH} // '' ) =~ /\A([0-9]{1,9})\z/
      or return ( '', 411, 'The browser did not say how much it sends.' );
    return ( '', 413, 'The form is larger than 1 MiB.' ) if $length > $MAX_BODY;
    my $body = '';
    local $SIG{ALRM} = sub { die "late\n" };
    my $whole = eval {
        alarm $MAX_TIME;
        while ( length $body < $length ) {
            my $n = read STDIN, $body, $length - length $body, length $body;
            last if !$n;
        }
        alarm 0;
        1;
    };
    alarm 0;
    return ( '', 400, 'The form did not arrive whole.' ) if !$whole || length $body < $length;
    return ($body);
}

# headers are all that osmd is told.
sub headers {
    my ( $user, $role ) = @_;
    my %h = (
        'X-OSM-User'    => $user,
        'X-OSM-Role'    => $role,
        'X-OSM-Session' => session(),
        'X-OSM-Base'    => 'index.cgi',
        'X-OSM-Links'   => 'query',
        'X-OSM-Frame'   => '1',
        'X-OSM-Origin'  => origin(),
    );
    $h{'X-OSM-Reseller'} = $user if $role eq 'reseller';
    for my $name ( 'Origin', 'Sec-Fetch-Site', 'Accept', 'Accept-Language' ) {
        $h{$name} = $ENV{ 'HTTP_' . uc $name =~ tr/-/_/r };
    }
    $h{'Content-Type'} = $ENV{CONTENT_TYPE};
    for ( keys %h ) {
        delete $h{$_} if !defined $h{$_} || $h{$_} eq '' || length $h{$_} > 2000 || $h{$_} =~ /[^\x20-\x7e]/;
    }
    return \%h;
}

# session is what is bound to this login: WHM's security token, and where an administrator
# has switched tokens off, the cookie of the login, in a form that is of no use to others.
sub session {
    return $1 if ( $ENV{cp_security_token} // '' ) =~ m{\A/?([A-Za-z0-9]{4,64})\z};
    return '' if ( $ENV{HTTP_COOKIE} // '' ) !~ /(?:\A|;\s*)whostmgrsession=([^;\s]{8,})/;
    my $cookie = $1;
    return eval { require Digest::SHA; Digest::SHA::sha256_hex("osm $cookie") } // '';
}

# origin is what the browser must name: this host as the browser calls it. A web server
# before WHM may speak TLS where WHM does not, so https is as good as what WHM sees.
sub origin {
    my ($host) = ( $ENV{HTTP_HOST} // '' ) =~ /\A([A-Za-z0-9.:\[\]_-]{1,255})\z/ or return '';
    my $named = $ENV{HTTP_ORIGIN} // '';
    my $plain = lc( $ENV{HTTPS} // '' ) ne 'on' && ( $ENV{SERVER_PORT} // '' ) !~ /\A(?:2087|443)\z/;
    return $plain && $named ne "https://$host" ? "http://$host" : "https://$host";
}

# forward asks osmd and gives its answer back: status, headers and body as they are.
sub forward {
    my ( $line, $body, $h ) = @_;
    local $SIG{ALRM} = sub { die "osmd takes too long\n" };
    my $begun = 0;
    my $ended = eval {
        alarm $MAX_TIME;
        my $osmd = IO::Socket::UNIX->new( Peer => $SOCKET, Timeout => 5 ) or die "$SOCKET: $!\n";
        binmode $osmd;
        my $request = "$line HTTP/1.0\r\nHost: osmd\r\n";
        $request .= "$_: $h->{$_}\r\n" for sort keys %$h;
        $request .= 'Content-Length: ' . length($body) . "\r\n" if $line =~ /\APOST /;
        sent( $osmd, "$request\r\n$body" );
        my ( $status, $kept, $first ) = head($osmd);
        $begun = 1;
        print "Status: $status\r\n", map( {"$_\r\n"} @$kept ), "\r\n", $first;
        while ( sysread $osmd, my $part, 64 << 10 ) { print $part or last }
        alarm 0;
        1;
    };
    my $why = $@;
    alarm 0;
    return if $ended || $begun;    # what has begun cannot be taken back
    chomp $why;
    return problem( 503, 'osm does not answer', "The page is made by the daemon osmd, which could not be asked: $why. While it is away, mail flows unchecked.", 'systemctl status osmd', 'osmctl doctor' );
}

sub sent {
    my ( $osmd, $text ) = @_;
    my $at = 0;
    while ( $at < length $text ) {
        my $n = syswrite $osmd, $text, length($text) - $at, $at;
        die "osmd did not take the request: $!\n" if !$n;
        $at += $n;
    }
    return;
}

# head reads the answer's status and headers. Headers of the connection itself stay here.
sub head {
    my ($osmd) = @_;
    my $text = '';
    until ( $text =~ /\r?\n\r?\n/ ) {
        die "osmd's answer begins with too much\n" if length $text > $MAX_HEAD;
        my $n = sysread $osmd, $text, 16 << 10, length $text;
        die "osmd broke off\n" if !$n;
    }
    my ( $head, $rest ) = $text =~ /\A(.*?)\r?\n\r?\n(.*)\z/s;
    my ( $first, @lines ) = split /\r?\n/, $head;
    my ($status) = $first =~ m{\AHTTP/1\.[01] ([1-5][0-9]{2}(?: [\x20-\x7e]*)?)\z} or die "osmd's answer is none\n";
    my @kept = grep { /\A[A-Za-z0-9-]+: [\x20-\x7e]*\z/ && !/\A(?:Connection|Keep-Alive|Transfer-Encoding|Trailer|Upgrade|Date|Set-Cookie|Status):/i } @lines;
    return ( $status, \@kept, $rest );
}

# frame prints WHM's own page around ours.
sub frame {
    print "Content-Type: text/html; charset=utf-8\r\nCache-Control: no-store\r\n\r\n";
    my $page  = '<iframe title="osm" src="index.cgi?p=" style="display:block;width:100%;height:calc(100vh - 11em);min-height:30em;border:0"></iframe>' . "\n";
    my $shown = eval {
        require Whostmgr::HTMLInterface;
        Whostmgr::HTMLInterface::defheader( 'Outgoing Mail (osm)', '', '/cgi/osm/index.cgi' );
        print $page;
        Whostmgr::HTMLInterface::deffooter();
        1;
    };
    print qq{<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Outgoing Mail (osm)</title></head>\n<body style="margin:0">\n$page</body></html>\n} if !$shown;
    return;
}

# problem is a small page of this program's own.
sub problem {
    my ( $status, $title, $text, @commands ) = @_;
    for ( $title, $text, @commands ) {
        s/&/&amp;/g;
        s/</&lt;/g;
        s/>/&gt;/g;
        s/[^\x20-\x7e]/?/g;
    }
    my $do = join '', map {"<pre>$_</pre>\n"} @commands;
    print "Status: $status $title\r\n",
      "Content-Type: text/html; charset=utf-8\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n",
      "Content-Security-Policy: default-src 'none'; base-uri 'none'; frame-ancestors 'self'\r\n",
      ( $status == 405 ? "Allow: GET, HEAD, POST\r\n" : '' ), "\r\n";
    return if ( $ENV{REQUEST_METHOD} // '' ) eq 'HEAD';
    print qq{<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>$title</title></head>\n<body>\n<h1>$title</h1>\n<p>$text</p>\n$do</body></html>\n};
    return;
}
