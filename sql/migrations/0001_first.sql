-- The first schema. Times are milliseconds since 1970, UTC.
--
-- A column of type ANY that holds a text holds either the text itself or, as an
-- integer, the number of a row of names. A text that is seen once stays in its row; one
-- that comes again is given a name. So no text needs an index to be found again, and a
-- stranger who never repeats himself fills no dictionary.

CREATE TABLE meta (
  key   TEXT PRIMARY KEY,
  value ANY NOT NULL
) STRICT, WITHOUT ROWID;

-- Accounts are the panel's: few, and looked up by name.
CREATE TABLE accounts (
  id   INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE names (
  id   INTEGER PRIMARY KEY,
  text TEXT NOT NULL
) STRICT;

-- The writer forgets all names once a day and at every start: the decisions of an epoch
-- use only names of that epoch, which therefore go when the last of them has gone.
CREATE TABLE name_epochs (
  id         INTEGER PRIMARY KEY,
  first_name INTEGER NOT NULL,
  last_name  INTEGER, -- NULL: the present epoch
  last_seq   INTEGER
) STRICT;

-- zero is the wall clock's time at which the boot clock stood at 0.
CREATE TABLE boots (
  id      INTEGER PRIMARY KEY,
  boot_id TEXT NOT NULL UNIQUE,
  zero    INTEGER NOT NULL
) STRICT;

CREATE TABLE decisions (
  seq               INTEGER PRIMARY KEY,
  at                INTEGER NOT NULL,
  boot              INTEGER NOT NULL, -- boots.id
  drift             INTEGER NOT NULL, -- at - boots.zero - boot clock: 0 unless the wall clock was set
  account           INTEGER NOT NULL, -- accounts.id
  flags             INTEGER NOT NULL, -- source, address class, reason, release and bits: flags.go
  verdict           INTEGER NOT NULL, -- 0 accept, 1 freeze, 2 discard, 3 defer, 4 deny
  would             INTEGER NOT NULL,
  recipients        INTEGER NOT NULL,
  size              INTEGER NOT NULL,
  message_id        TEXT,
  client_ip         BLOB, -- 4 or 16 bytes
  mailbox           ANY,
  basis             ANY,
  directory         ANY,
  directory_account ANY,  -- NULL where a flag says that it is the account itself
  script            ANY,
  sub_key           ANY,
  envelope_sender   ANY,
  subject           ANY,
  subject_key       ANY,
  trigger           ANY,
  hold              INTEGER,
  event             INTEGER,
  over              TEXT  -- JSON: the triggers that were over, with their counts
) STRICT;

-- Only what was stopped is indexed by account: an index of everything would cost more
-- than the row itself.
CREATE INDEX decisions_stopped ON decisions (account) WHERE verdict <> 0;

-- Which numbers a minute of wall time holds: the index by time, one row a minute; and
-- what histograms are drawn from.
CREATE TABLE minutes (
  minute             INTEGER PRIMARY KEY, -- minutes since 1970
  first_seq          INTEGER NOT NULL,
  last_seq           INTEGER NOT NULL,
  messages           INTEGER NOT NULL, -- passed
  recipients         INTEGER NOT NULL,
  frozen             INTEGER NOT NULL,
  discarded          INTEGER NOT NULL,
  deferred           INTEGER NOT NULL,
  denied             INTEGER NOT NULL,
  stopped_recipients INTEGER NOT NULL,
  observed           INTEGER NOT NULL, -- passed, but a trigger that only observes was over
  unchecked          INTEGER NOT NULL
) STRICT;

CREATE TABLE hours (
  hour               INTEGER NOT NULL, -- hours since 1970
  account            INTEGER NOT NULL,
  messages           INTEGER NOT NULL,
  recipients         INTEGER NOT NULL,
  frozen             INTEGER NOT NULL,
  discarded          INTEGER NOT NULL,
  deferred           INTEGER NOT NULL,
  denied             INTEGER NOT NULL,
  stopped_recipients INTEGER NOT NULL,
  observed           INTEGER NOT NULL,
  unchecked          INTEGER NOT NULL,
  PRIMARY KEY (hour, account)
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
  id       INTEGER PRIMARY KEY,
  at       INTEGER NOT NULL,
  last_at  INTEGER NOT NULL,
  trigger  TEXT NOT NULL,
  watch    INTEGER NOT NULL,
  key      TEXT NOT NULL,
  account  TEXT NOT NULL,
  mailbox  TEXT NOT NULL,
  mode     INTEGER NOT NULL,
  verdict  INTEGER NOT NULL,
  max      INTEGER NOT NULL,
  per      INTEGER NOT NULL, -- ms
  count    INTEGER NOT NULL,
  used     INTEGER NOT NULL,
  stopped  INTEGER NOT NULL,
  free_at  INTEGER,
  claimed  INTEGER NOT NULL,
  open     INTEGER NOT NULL,
  messages INTEGER NOT NULL DEFAULT 0 -- how many were given to event_messages
) STRICT;
CREATE INDEX events_open ON events (id) WHERE open = 1;
CREATE INDEX events_account ON events (account);

-- The first 50 messages of an event (slots 0 to 49) and the last 50 (a ring, 50 to 99).
CREATE TABLE event_messages (
  event INTEGER NOT NULL,
  slot  INTEGER NOT NULL,
  seq   INTEGER NOT NULL,
  PRIMARY KEY (event, slot)
) STRICT, WITHOUT ROWID;
CREATE INDEX event_messages_seq ON event_messages (seq);

-- Decisions that are too old to be kept but that an event or a message in the queue still
-- names. Their texts stand in them, since the names of their time have gone.
CREATE TABLE kept (
  seq               INTEGER PRIMARY KEY,
  at                INTEGER NOT NULL,
  account           TEXT NOT NULL,
  flags             INTEGER NOT NULL,
  verdict           INTEGER NOT NULL,
  would             INTEGER NOT NULL,
  recipients        INTEGER NOT NULL,
  size              INTEGER NOT NULL,
  message_id        TEXT,
  client_ip         BLOB,
  mailbox           TEXT,
  basis             TEXT,
  directory         TEXT,
  directory_account TEXT,
  script            TEXT,
  sub_key           TEXT,
  envelope_sender   TEXT,
  subject           TEXT,
  subject_key       TEXT,
  trigger           TEXT,
  hold              INTEGER,
  event             INTEGER,
  over              TEXT
) STRICT;
CREATE INDEX kept_message ON kept (message_id);

CREATE TABLE actions (
  id      INTEGER PRIMARY KEY,
  event   INTEGER,
  at      INTEGER NOT NULL,
  name    TEXT NOT NULL,
  target  TEXT NOT NULL,
  state   TEXT NOT NULL,
  outcome TEXT NOT NULL,
  inverse TEXT NOT NULL
) STRICT;
CREATE INDEX actions_event ON actions (event);

CREATE TABLE holds (
  id       INTEGER PRIMARY KEY,
  scope    INTEGER NOT NULL,
  account  TEXT NOT NULL,
  value    TEXT NOT NULL,
  verdict  INTEGER NOT NULL,
  release  INTEGER NOT NULL,
  trigger  TEXT NOT NULL,
  event    INTEGER NOT NULL,
  claimed  INTEGER NOT NULL,
  until    INTEGER, -- NULL: until released
  by       TEXT NOT NULL,
  at       INTEGER NOT NULL,
  reason   TEXT NOT NULL,
  ended_at INTEGER,
  ended_by TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX holds_standing ON holds (id) WHERE ended_at IS NULL;

CREATE TABLE held (
  seq               INTEGER PRIMARY KEY, -- of the decision that froze it
  message_id        TEXT NOT NULL,
  account           TEXT NOT NULL,
  mailbox           TEXT NOT NULL,
  envelope_sender   TEXT NOT NULL,
  subject           TEXT NOT NULL,
  subject_key       TEXT NOT NULL,
  directory         TEXT NOT NULL,
  directory_account TEXT NOT NULL,
  sub_key           TEXT NOT NULL,
  client_ip         BLOB,
  flags             INTEGER NOT NULL,
  recipients        INTEGER NOT NULL,
  recipient_list    TEXT NOT NULL,
  size              INTEGER NOT NULL,
  held_at           INTEGER NOT NULL,
  trigger           TEXT NOT NULL,
  hold              INTEGER NOT NULL,
  release           INTEGER NOT NULL,
  state             INTEGER NOT NULL,
  state_at          INTEGER NOT NULL,
  by                TEXT NOT NULL DEFAULT '',
  attempts          INTEGER NOT NULL DEFAULT 0,
  last_error        TEXT NOT NULL DEFAULT '',
  -- When it left by itself and was counted as a decision is: its number then and both
  -- clocks, for the counters after a start. NULL: it was not counted.
  left_seq          INTEGER,
  left_at           INTEGER,
  left_boot_id      TEXT,
  left_boot         INTEGER
) STRICT;
CREATE INDEX held_message ON held (message_id);
CREATE INDEX held_left ON held (left_seq) WHERE left_seq IS NOT NULL;
CREATE INDEX held_waiting ON held (account, seq) WHERE state <= 2;
CREATE INDEX held_settled ON held (state_at) WHERE state > 2;

CREATE TABLE overrides (
  id      INTEGER PRIMARY KEY,
  level   INTEGER NOT NULL,
  name    TEXT NOT NULL,
  trigger TEXT NOT NULL,
  max     INTEGER,
  per     INTEGER, -- ms
  verdict INTEGER,
  release INTEGER,
  mode    INTEGER,
  actions TEXT,    -- JSON
  until   INTEGER,
  by      TEXT NOT NULL,
  at      INTEGER NOT NULL,
  reason  TEXT NOT NULL
) STRICT;

CREATE TABLE exemptions (
  id          INTEGER PRIMARY KEY,
  scope       INTEGER NOT NULL,
  account     TEXT NOT NULL,
  value       TEXT NOT NULL,
  trigger     TEXT NOT NULL,
  ceiling     INTEGER NOT NULL,
  until       INTEGER,
  by          TEXT NOT NULL,
  at          INTEGER NOT NULL,
  reason      TEXT NOT NULL,
  hits        INTEGER NOT NULL DEFAULT 0,
  last_hit_at INTEGER
) STRICT;

CREATE TABLE audit (
  id        INTEGER PRIMARY KEY,
  at        INTEGER NOT NULL,
  actor_uid INTEGER NOT NULL,
  user      TEXT NOT NULL,
  role      TEXT NOT NULL,
  what      TEXT NOT NULL,
  target    TEXT NOT NULL,
  old       TEXT NOT NULL,
  new       TEXT NOT NULL
) STRICT;

-- What happened to the daemon itself: gaps, alarms, databases set aside.
CREATE TABLE journal (
  id   INTEGER PRIMARY KEY,
  at   INTEGER NOT NULL,
  kind TEXT NOT NULL,
  text TEXT NOT NULL
) STRICT;
