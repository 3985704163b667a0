-- Server, relay and queue :name go to a :port of Redis with a :window.
CREATE SERVER :name FOREIGN DATA WRAPPER queue_redis OPTIONS (host '127.0.0.1', port :'port');
CREATE USER MAPPING FOR CURRENT_USER SERVER :name;
SELECT queue.create_relay(:'name', :'name', :'name',
	jsonb_build_object('target', 'bench', 'batch', :window));
