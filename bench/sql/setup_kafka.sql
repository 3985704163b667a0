-- Server, relay and queue :name go to a :port of Kafka with a :window.
SELECT '127.0.0.1:' || :'port' AS brokers \gset
CREATE SERVER :name FOREIGN DATA WRAPPER queue_kafka OPTIONS (brokers :'brokers');
CREATE USER MAPPING FOR CURRENT_USER SERVER :name;
SELECT queue.create_relay(:'name', :'name', :'name',
	jsonb_build_object('topic', 'bench', 'batch', :window));
