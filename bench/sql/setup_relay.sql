-- :port is RabbitMQ's, :batch the relay's window of unconfirmed messages.
CREATE SERVER rabbit FOREIGN DATA WRAPPER queue_amqp OPTIONS (host '127.0.0.1', port :'port', sslmode 'disable');
CREATE USER MAPPING FOR CURRENT_USER SERVER rabbit OPTIONS (username 'guest', password 'guest');
SELECT queue.create_relay('bench', 'bench', 'rabbit',
	jsonb_build_object('routing_key', 'bench', 'batch', :batch));
