-- A relay that posts each message to demo/receiver.py.

\set password `cat broker/password`
SELECT 'http://127.0.0.1:' || :'port' AS url \gset

CREATE SERVER broker FOREIGN DATA WRAPPER queue_http
	OPTIONS (url :'url', allow_private 'true');
CREATE USER MAPPING FOR CURRENT_USER SERVER broker
	OPTIONS (token :'password');
SELECT queue.create_relay('announcements', 'announcing', 'broker', '{"path": "/announcements"}');
