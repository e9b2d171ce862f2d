-- What follows an event: how it is tried again, ended and taken back; what was found out
-- about who sent; and who has been told.
ALTER TABLE actions ADD COLUMN account TEXT NOT NULL DEFAULT '';
-- What holds it: the number of a hold, the executor's record of a change.
ALTER TABLE actions ADD COLUMN record TEXT NOT NULL DEFAULT '';
ALTER TABLE actions ADD COLUMN until INTEGER;                      -- ends by itself; NULL: it does not
ALTER TABLE actions ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;
ALTER TABLE actions ADD COLUMN next_at INTEGER;                    -- tried again; NULL: it is not
ALTER TABLE actions ADD COLUMN undone_at INTEGER;
ALTER TABLE actions ADD COLUMN undone_by TEXT NOT NULL DEFAULT '';
CREATE INDEX actions_waiting ON actions (next_at) WHERE next_at IS NOT NULL;
CREATE INDEX actions_standing ON actions (id) WHERE record <> '' AND undone_at IS NULL;
CREATE INDEX actions_undone ON actions (undone_at) WHERE undone_at IS NOT NULL;
-- How often the same sender went over.
CREATE INDEX events_key ON events (trigger, key, at);

CREATE TABLE evidence (
  id           INTEGER PRIMARY KEY,
  event        INTEGER NOT NULL,
  at           INTEGER NOT NULL, -- of the message
  ref          TEXT NOT NULL,    -- of the message
  script       TEXT NOT NULL,
  url          TEXT NOT NULL,
  method       TEXT NOT NULL,
  virtual_host TEXT NOT NULL,
  client_ip    BLOB,
  pid          INTEGER NOT NULL,
  basis        TEXT NOT NULL,
  confidence   INTEGER NOT NULL
) STRICT;
CREATE INDEX evidence_event ON evidence (event);

-- What is to be told to whom; what has been told stays as long as events do.
CREATE TABLE notices (
  id       INTEGER PRIMARY KEY,
  at       INTEGER NOT NULL,
  channel  TEXT NOT NULL, -- mail, webhook, syslog
  audience TEXT NOT NULL, -- operator, reseller, customer
  sender   TEXT NOT NULL, -- whom it is about: the key under which nobody is told twice
  account  TEXT NOT NULL,
  event    INTEGER NOT NULL,
  digest   INTEGER NOT NULL,
  state    TEXT NOT NULL, -- waiting, sent, given up
  attempts INTEGER NOT NULL DEFAULT 0,
  next_at  INTEGER,
  detail   TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX notices_waiting ON notices (next_at) WHERE state = 'waiting';
CREATE INDEX notices_sender ON notices (channel, audience, sender, at);
