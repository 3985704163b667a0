-- Server, relay and queue :name go to a :port of RabbitMQ with a :window.
CREATE SERVER :name FOREIGN DATA WRAPPER queue_amqp OPTIONS (host '127.0.0.1', port :'port', sslmode 'disable');
CREATE USER MAPPING FOR CURRENT_USER SERVER :name OPTIONS (username 'guest', password 'guest');
SELECT queue.create_relay(:'name', :'name', :'name',
	jsonb_build_object('routing_key', 'bench', 'batch', :window));
