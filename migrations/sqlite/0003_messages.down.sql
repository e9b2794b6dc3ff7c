DROP TRIGGER trigger_notify_new_message;
DROP VIEW notify_messages;
DROP TABLE messages;
