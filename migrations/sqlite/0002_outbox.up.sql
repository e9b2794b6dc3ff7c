-- What is to be published. Whoever writes a row here does so in the transaction that the row tells of;
-- once the transaction is committed, notify-server publishes the row and deletes it. One transaction
-- writes at a time, so that ids are in the order of commits.
CREATE TABLE notify_outbox (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    -- 'chat:42', or several with commas in between.
    channel    TEXT NOT NULL,
    type       TEXT NOT NULL DEFAULT 'message',
    payload    TEXT NOT NULL,
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
);

-- Which database this is, to whoever recognises messages by their ids, and the place in the log of events
-- up to which every row that was published has been deleted, too.
CREATE TABLE notify_outbox_state (
    one          INTEGER PRIMARY KEY DEFAULT 1 CHECK (one = 1),
    source       TEXT NOT NULL DEFAULT (lower(hex(randomblob(16)))),
    log_epoch    INTEGER,
    log_position INTEGER
);

INSERT INTO notify_outbox_state DEFAULT VALUES;

-- Rows that can't be published, and why. Nobody deletes them but you.
CREATE TABLE notify_outbox_dead (
    id         INTEGER NOT NULL,
    channel    TEXT NOT NULL,
    type       TEXT NOT NULL,
    payload    TEXT NOT NULL,
    created_at TEXT NOT NULL,
    reason     TEXT NOT NULL,
    failed_at  TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    PRIMARY KEY (id, failed_at)
);
