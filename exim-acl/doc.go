// Package eximacl is both ends of the wire between Exim and osmd: the ACL text that
// asks, the request, the answer and the server that answers.
//
// It decides nothing: the verdict comes from the functions that [Server] is given. It
// runs no program and opens no file; the installer (install.sh) puts [Fragments] into
// Exim's configuration. cmd/osmd serves with it, osmctl's doctor compares what is
// installed with [Fragments], and tests and benchmarks ask with [AppendRequest].
//
// # The exchange
//
// One connection to a Unix stream socket for each message, made by ${readsocket}
// while Exim holds the message at the end of DATA or of a local submission. Exim
// writes the request in one piece and half-closes; the server answers at the empty
// line, with one write, and closes at once, because Exim reads to the end of file: an
// answer on a connection that is left open is no answer. Nothing else ever travels on
// the connection.
//
// # Request
//
// At most 64 KiB of lines NAME=VALUE, each ended by LF, then one empty line. Lines
// come in any order. Names that are not known are ignored; a known name given twice
// is an error, and so are a line without "=", a missing "osm=1", and a request that
// ends before its empty line. What follows the empty line is ignored.
//
// Values are of four kinds: words (raw, at most 64 bytes), numbers (decimal, empty
// when not told), addresses (IPv4 or IPv6 without brackets, empty for none) and, where the
// name ends in 64, base64 (RFC 4648 section 4, padded, on one line) of any bytes at
// all. Whatever a stranger can influence is base64: his bytes cannot change the
// structure. Decoded values are handed on as they are, NUL, CR and LF included; a
// value longer than its cap is cut to it, as the ACL does already.
//
//	name       Exim's variable                cap, range       Submission
//	osm        1, the version of this wire
//	id         $message_exim_id               64 bytes         MessageID
//	proto      $received_protocol             64 bytes         Protocol
//	ouid       $originator_uid                -1 to 2^32-1     CallerUID, -1 when not told
//	ip         $sender_host_address           address          ClientIP
//	port       $sender_host_port              -1 to 65535      ClientPort
//	lip        $received_ip_address           address          LocalIP
//	lport      $received_port                 -1 to 65535      LocalPort, 0 for -1
//	size       $message_size                  -1 to 2^40       Size
//	nrcpt      $recipients_count              -1 to 2^24       Recipients
//	cwd64      $initial_cwd                   1024 bytes       WorkingDirectory
//	ident64    $sender_ident                  128 bytes        Ident
//	auth64     $authenticated_id              256 bytes        AuthenticatedID
//	authm64    $sender_host_authenticated     64 bytes         Authenticator
//	helo64     $sender_helo_name              256 bytes        HELO
//	from64     $sender_address                512 bytes        EnvelopeSender
//	rcpts64    $recipients                    4096 bytes       RecipientList; RecipientsCut when it fills the cap
//	hfrom64    $rh_from:                      512 bytes        HeaderFrom
//	subj64     $rh_subject:                   1024 bytes       Subject
//	php64      $rh_x-php-script: or, without
//	           one, $rh_x-php-originating-script:  512 bytes   PHPScript
//	owner64    $acl_c_authenticated_local_user     128 bytes   LocalUser (cPanel)
//	vhost64    $acl_c_vhost_owner             512 bytes        VhostOwner (cPanel)
//	recent64   $acl_c_recent_authed_mail_ips_text_entry  512   RecentAuth (cPanel)
//	always64   $acl_c_alwaysrelay             256 bytes        AlwaysRelay (cPanel)
//
// # Answer
//
// One line of at most 1 KiB, LF included:
//
//	action=freeze ref=4k7qm2xd log="account-hour shop 301/300 1h" text="Limit reached" osm=1
//
// action is accept, freeze, discard, defer or deny. ref is the opaque reference; log is
// for Exim's log, text for the SMTP client; each of the three is left out when empty. A
// frozen message that leaves by itself has release=when-free behind its reference: the
// ACL does not look at it, but it stands in the queue with the message.
// Quoted values escape " and \ with a backslash and hold nothing but printable ASCII:
// any other byte leaves as "?". The words come in this order and osm=1 is the last one:
// Exim cannot tell a cut answer from a whole one, so an answer without its last word
// counts as none. Such an answer, or none within the ACL's timeout, means "unavailable":
// Exim logs it and accepts.
package eximacl
