-- With it go the triggers on other tables that write to the outbox.
DROP FUNCTION notify_new_message() CASCADE;
DROP FUNCTION notify_message(jsonb);
DROP FUNCTION notify_outbox_next(integer, bigint, bigint);
DROP TABLE notify_outbox_dead;
DROP TABLE notify_outbox_state;
DROP TABLE notify_outbox_commits;
DROP TABLE notify_outbox;
DROP SEQUENCE notify_outbox_places;
DROP FUNCTION notify_outbox_wake();
DROP FUNCTION notify_outbox_committing();
DROP FUNCTION notify_outbox_written();
