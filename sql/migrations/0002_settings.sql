-- What was set on the page or with osmctl instead of in osm.toml, one row a key.
CREATE TABLE settings (
  key    TEXT PRIMARY KEY,
  value  TEXT NOT NULL, -- as people write it: "30d", "true", "60/min"
  by     TEXT NOT NULL,
  at     INTEGER NOT NULL,
  reason TEXT NOT NULL
) STRICT, WITHOUT ROWID;
