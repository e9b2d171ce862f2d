package Whostmgr::HTMLInterface;

# A stand-in for WHM's frame: a bar on top, a menu on the left, the page in the middle.
use strict;
use warnings;

sub defheader {
    my ( $title, undef, $url ) = @_;
    my $token = $ENV{cp_security_token} // '';
    print <<"END";
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>WHM - $title</title>
<style>
body { margin: 0; font: 14px/1.4 sans-serif; color: #222; background: #f3f3f3 }
#bar { background: #293a4a; color: #fff; padding: .8em 1em }
#menu { position: absolute; top: 3.4em; bottom: 0; left: 0; width: 11em; padding: 1em; background: #fff; border-right: 1px solid #ccc; box-sizing: border-box }
#content { margin-left: 11em; padding: 1em }
\@media (max-width: 700px) { #menu { display: none } #content { margin-left: 0 } }
</style>
</head>
<body>
<header id="bar">WHM (a stand-in)</header>
<nav id="menu"><a href="$token$url">$title</a></nav>
<main id="content">
<h1>$title</h1>
END
    return;
}

sub deffooter {
    print "</main>\n</body>\n</html>\n";
    return;
}

1;
