-- A few users and chats for compose.yml, the same as development mode starts with. Runs on every start, and
-- leaves a database that has users as it is.
BEGIN;

CREATE TEMPORARY TABLE wanted ON COMMIT DROP AS SELECT NOT EXISTS (SELECT FROM users) AS empty;

INSERT INTO users (id, name)
SELECT demo.id, demo.name
FROM wanted, (VALUES (1, 'Ada'), (2, 'Bashir'), (3, 'Chen'), (4, 'Dagny'), (5, 'Emeka')) AS demo (id, name)
WHERE wanted.empty;

INSERT INTO chats (id, name)
SELECT demo.id, demo.name
FROM wanted, (VALUES (1, 'general'), (2, 'design'), (3, 'operations')) AS demo (id, name)
WHERE wanted.empty;

INSERT INTO chat_members (chat_id, user_id)
SELECT demo.chat_id, demo.user_id
FROM wanted, (VALUES (1, 1), (1, 2), (1, 3), (1, 4), (1, 5), (2, 1), (2, 2), (3, 2), (3, 3), (3, 4)) AS demo (chat_id, user_id)
WHERE wanted.empty;

-- The ids above were given, not drawn, so the counters are moved past them.
SELECT setval(pg_get_serial_sequence('users', 'id'), max(id)) FROM users;
SELECT setval(pg_get_serial_sequence('chats', 'id'), max(id)) FROM chats;

COMMIT;
