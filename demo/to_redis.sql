-- A relay to the stream "announcements" of Redis.

\set password `cat broker/password`

CREATE SERVER broker FOREIGN DATA WRAPPER queue_redis
	OPTIONS (host '127.0.0.1', port :'port');
CREATE USER MAPPING FOR CURRENT_USER SERVER broker
	OPTIONS (username 'shop', password :'password');
SELECT queue.create_relay('announcements', 'announcing', 'broker', '{"target": "announcements"}');
