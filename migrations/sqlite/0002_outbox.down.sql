DROP TABLE notify_outbox_dead;
DROP TABLE notify_outbox_state;
DROP TABLE notify_outbox;
