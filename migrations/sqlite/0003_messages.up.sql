CREATE TABLE messages (
    -- The order of a history.
    position        INTEGER PRIMARY KEY AUTOINCREMENT,
    id              TEXT NOT NULL UNIQUE DEFAULT (lower(hex(randomblob(16)))),
    session_id      TEXT,
    chat_id         INTEGER REFERENCES chats (id) ON DELETE CASCADE,
    content         TEXT NOT NULL,
    sender_type     TEXT NOT NULL DEFAULT 'user',
    sender_id       TEXT,
    sender_name     TEXT,
    -- text, image, audio, video, file, ...
    message_type    TEXT NOT NULL DEFAULT 'text',
    idempotency_key TEXT,
    created_at      TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    CHECK (session_id IS NOT NULL OR chat_id IS NOT NULL),
    UNIQUE (sender_id, idempotency_key)
);

CREATE INDEX messages_of_session ON messages (session_id, position) WHERE session_id IS NOT NULL;
CREATE INDEX messages_of_chat ON messages (chat_id, position) WHERE chat_id IS NOT NULL;

-- A message as clients get it.
CREATE VIEW notify_messages AS
    SELECT position, id, session_id, chat_id,
        -- Which leaves out what is null.
        json_patch('{}', json_object(
            'id', id,
            'sessionId', session_id,
            'chatId', chat_id,
            'content', content,
            'senderType', sender_type,
            'senderId', sender_id,
            'senderName', sender_name,
            'messageType', message_type,
            'createdAt', created_at
        )) AS message
    FROM messages;

-- A comma would begin another channel, so it becomes what no channel can have.
CREATE TRIGGER trigger_notify_new_message AFTER INSERT ON messages BEGIN
    INSERT INTO notify_outbox (channel, payload)
    SELECT
        coalesce('session:' || replace(NEW.session_id, ',', char(10)), '')
            || CASE WHEN NEW.session_id IS NULL OR NEW.chat_id IS NULL THEN '' ELSE ',' END
            || coalesce('chat:' || NEW.chat_id, ''),
        message
    FROM notify_messages WHERE position = NEW.position;
END;
