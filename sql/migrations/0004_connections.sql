-- Connections that bypassed Exim. Each is a decision, of source direct (7), with which it
-- comes and goes: whose it is stands there. How the two ends are written: 4 or 16 bytes.
CREATE TABLE connections (
  seq         INTEGER PRIMARY KEY, -- decisions.seq
  seen        TEXT NOT NULL,       -- by which source: ebpf, packet, poll
  local_ip    BLOB,
  local_port  INTEGER NOT NULL,    -- 0: not known
  remote_ip   BLOB,
  remote_port INTEGER NOT NULL,
  uid         INTEGER,             -- NULL: not known, and so nobody's
  outcome     INTEGER NOT NULL,    -- 0 unknown, 1 established, 2 refused, 3 unanswered
  pid         INTEGER NOT NULL,    -- 0: not known
  cgroup      TEXT NOT NULL,
  processes   TEXT NOT NULL        -- JSON: the process that connected and its parents, nearest first
) STRICT;

-- What an account connected to is found without reading its mail.
CREATE INDEX decisions_direct ON decisions (account) WHERE flags & 15 = 7;

-- Connections are no messages: they have a tally of their own.
ALTER TABLE minutes ADD COLUMN connections INTEGER NOT NULL DEFAULT 0;
ALTER TABLE hours ADD COLUMN connections INTEGER NOT NULL DEFAULT 0;
