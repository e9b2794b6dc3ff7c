DROP TABLE chat_members;
DROP TABLE chats;
DROP TABLE users;
