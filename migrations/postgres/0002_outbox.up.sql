-- What is to be published. Whoever writes a row here does so in the transaction that the row tells of;
-- once the transaction is committed, notify-server publishes the row and deletes it.
CREATE TABLE notify_outbox (
    xid        XID8 NOT NULL DEFAULT pg_current_xact_id(),
    id         BIGINT GENERATED ALWAYS AS IDENTITY,
    -- 'chat:42', or several with commas in between.
    channel    TEXT NOT NULL,
    type       TEXT NOT NULL DEFAULT 'message',
    -- JSON. It is text, so that what is not JSON fails at the server and not in the writer's transaction.
    payload    TEXT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (xid, id)
);

-- In which order transactions were committed that wrote to the same channel: ids are handed out long before
-- a transaction commits, but a place only when it does, under a lock that it holds until it has.
CREATE SEQUENCE notify_outbox_places;

CREATE TABLE notify_outbox_commits (
    xid   XID8 PRIMARY KEY,
    -- Bit n: a channel that the transaction writes to has lock n. Few locks for all channels, so that a
    -- transaction that writes to thousands does not fill the lock table.
    locks BIGINT NOT NULL,
    place BIGINT
);

CREATE INDEX notify_outbox_commits_in_order ON notify_outbox_commits (place);

-- Both tables are queues: they are worth a vacuum whenever something has gone through.
ALTER TABLE notify_outbox SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);
ALTER TABLE notify_outbox_commits SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);

-- Which database this is, to whoever recognises messages by their ids, and the place in the log of events
-- up to which every row that was published has been deleted, too.
CREATE TABLE notify_outbox_state (
    one          BOOLEAN PRIMARY KEY DEFAULT true CHECK (one),
    source       UUID NOT NULL DEFAULT gen_random_uuid(),
    log_epoch    BIGINT,
    log_position BIGINT
);

INSERT INTO notify_outbox_state DEFAULT VALUES;

-- Rows that can't be published, and why. Nobody deletes them but you.
CREATE TABLE notify_outbox_dead (
    id         BIGINT NOT NULL,
    channel    TEXT NOT NULL,
    type       TEXT NOT NULL,
    payload    TEXT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    reason     TEXT NOT NULL,
    failed_at  TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (id, failed_at)
);

CREATE FUNCTION notify_outbox_written() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO notify_outbox_commits AS known (xid, locks)
    SELECT pg_current_xact_id(), bit_or(1::bigint << (hashtext(name) & 63))
    FROM written, unnest(string_to_array(written.channel, ',')) AS name
    HAVING count(*) > 0
    ON CONFLICT (xid) DO UPDATE SET locks = known.locks | excluded.locks
    WHERE known.locks <> known.locks | excluded.locks;
    RETURN NULL;
END
$$;

CREATE TRIGGER notify_outbox_written AFTER INSERT ON notify_outbox
    REFERENCING NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION notify_outbox_written();

-- Runs when the transaction commits. The locks are taken in one order by all, so that nobody waits in a
-- circle, and are released after others can see the transaction.
CREATE FUNCTION notify_outbox_committing() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    wanted bigint;
BEGIN
    SELECT locks INTO wanted FROM notify_outbox_commits WHERE xid = NEW.xid;
    FOR number IN 0..63 LOOP
        IF wanted & (1::bigint << number) <> 0 THEN
            PERFORM pg_advisory_xact_lock(1852797033, number);
        END IF;
    END LOOP;
    UPDATE notify_outbox_commits SET place = nextval('notify_outbox_places') WHERE xid = NEW.xid;
    RETURN NULL;
END
$$;

CREATE CONSTRAINT TRIGGER notify_outbox_committing AFTER INSERT OR UPDATE OF locks ON notify_outbox_commits
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION notify_outbox_committing();

-- Says that there is something to publish. NOTIFY serialises commits: where that costs too much, disable this
-- trigger, and the server finds the rows when it looks (source.poll_interval).
CREATE FUNCTION notify_outbox_wake() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('notify_outbox', '');
    RETURN NULL;
END
$$;

CREATE TRIGGER notify_outbox_wake AFTER INSERT ON notify_outbox_commits
    FOR EACH STATEMENT EXECUTE FUNCTION notify_outbox_wake();

-- The next rows, in order: at most so many, of at most so many bytes together unless the first one has more.
-- Payloads larger than `largest` are left out: they can't be published.
CREATE FUNCTION notify_outbox_next(most integer, most_bytes bigint, largest bigint)
    RETURNS TABLE (
        xid text, id bigint, channel text, type text, payload text, size bigint, millis bigint
    )
    LANGUAGE plpgsql STABLE SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off
AS $$
#variable_conflict use_column
DECLARE
    transaction xid8;
    so_many integer := 0;
    so_large bigint := 0;
BEGIN
    FOR transaction IN SELECT c.xid FROM notify_outbox_commits c WHERE c.place IS NOT NULL ORDER BY c.place LOOP
        FOR xid, id, channel, type, payload, size, millis IN
            SELECT o.xid::text, o.id, o.channel, o.type,
                CASE WHEN octet_length(o.payload) <= largest THEN o.payload END,
                octet_length(o.payload)::bigint,
                (extract(epoch FROM o.created_at) * 1000)::bigint
            FROM notify_outbox o WHERE o.xid = transaction ORDER BY o.id LIMIT most - so_many
        LOOP
            so_large := so_large + CASE WHEN payload IS NULL THEN 0 ELSE size END;
            IF so_many > 0 AND so_large > most_bytes THEN
                RETURN;
            END IF;
            so_many := so_many + 1;
            RETURN NEXT;
        END LOOP;
        IF so_many >= most THEN
            RETURN;
        END IF;
    END LOOP;
END
$$;

-- A row of a table of messages as clients get it.
CREATE FUNCTION notify_message(message jsonb) RETURNS json LANGUAGE sql IMMUTABLE AS $$
    SELECT json_strip_nulls(json_build_object(
        'id', message -> 'id',
        'sessionId', message -> 'session_id',
        'chatId', message -> 'chat_id',
        'content', message -> 'content',
        'senderType', message -> 'sender_type',
        'senderId', message -> 'sender_id',
        'senderName', message -> 'sender_name',
        'messageType', message -> 'message_type',
        'createdAt', message -> 'created_at'
    ))
$$;

-- For a trigger AFTER INSERT ... FOR EACH ROW on any table with some of these columns, and at least
-- session_id or chat_id. A comma would begin another channel, so it becomes what no channel can have.
CREATE FUNCTION notify_new_message() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET timezone = 'UTC'
AS $$
DECLARE
    message jsonb := to_jsonb(NEW);
    channels text := concat_ws(',',
        'session:' || translate(message ->> 'session_id', ',', chr(10)),
        'chat:' || translate(message ->> 'chat_id', ',', chr(10)));
BEGIN
    IF channels <> '' THEN
        INSERT INTO notify_outbox (channel, payload) VALUES (channels, notify_message(message)::text);
    END IF;
    RETURN NULL;
END
$$;

-- The functions that write to the outbox do so for whoever may write the rows that it is about, who need
-- not be allowed to write to the outbox. So they must mean these tables, whatever else has their names.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY[
        'notify_outbox_written()', 'notify_outbox_committing()', 'notify_new_message()',
        'notify_outbox_next(integer, bigint, bigint)'
    ] LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', name, current_schema());
    END LOOP;
END
$$;

-- They write with the rights of their owner. Only triggers call them, for which PostgreSQL asks for this right when the
-- trigger is made, and not when somebody writes: nobody else can point a table of their own at them.
REVOKE EXECUTE ON FUNCTION notify_outbox_written() FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION notify_outbox_committing() FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION notify_new_message() FROM PUBLIC;
