-- A relay to the topic "announcements" of Kafka.

SELECT '127.0.0.1:' || :'port' AS brokers \gset

CREATE SERVER broker FOREIGN DATA WRAPPER queue_kafka
	OPTIONS (brokers :'brokers');
CREATE USER MAPPING FOR CURRENT_USER SERVER broker;
SELECT queue.create_relay('announcements', 'announcing', 'broker', '{"topic": "announcements"}');
