CREATE TABLE messages (
    -- The order of a history.
    position        BIGINT GENERATED ALWAYS AS IDENTITY,
    id              TEXT PRIMARY KEY DEFAULT gen_random_uuid()::text,
    session_id      TEXT,
    chat_id         BIGINT REFERENCES chats (id) ON DELETE CASCADE,
    content         TEXT NOT NULL,
    sender_type     TEXT NOT NULL DEFAULT 'user',
    sender_id       TEXT,
    sender_name     TEXT,
    -- text, image, audio, video, file, ...
    message_type    TEXT NOT NULL DEFAULT 'text',
    idempotency_key TEXT,
    created_at      TIMESTAMPTZ NOT NULL DEFAULT now(),
    CHECK (session_id IS NOT NULL OR chat_id IS NOT NULL),
    UNIQUE (sender_id, idempotency_key)
);

CREATE INDEX messages_of_session ON messages (session_id, position) WHERE session_id IS NOT NULL;
CREATE INDEX messages_of_chat ON messages (chat_id, position) WHERE chat_id IS NOT NULL;

CREATE TRIGGER trigger_notify_new_message AFTER INSERT ON messages
    FOR EACH ROW EXECUTE FUNCTION notify_new_message();
