-- A relay to the queue "announcements" of RabbitMQ, by the default exchange.

\set password `cat broker/password`

CREATE SERVER broker FOREIGN DATA WRAPPER queue_amqp
	OPTIONS (host '127.0.0.1', port :'port');
CREATE USER MAPPING FOR CURRENT_USER SERVER broker
	OPTIONS (username 'shop', password :'password');
SELECT queue.create_relay('announcements', 'announcing', 'broker', '{"routing_key": "announcements"}');
