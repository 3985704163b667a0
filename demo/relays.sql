-- Two relays: a handler in this database, and a queue in another one.

SELECT queue.create_relay('accounts', 'accounting', options => '{"procedure": "public.book"}');

CREATE SERVER warehouse FOREIGN DATA WRAPPER queue_postgres
	OPTIONS (host :'host', port :'port', dbname 'warehouse');
CREATE USER MAPPING FOR CURRENT_USER SERVER warehouse
	OPTIONS (user 'postgres');
SELECT queue.create_relay('shipments', 'shipping', 'warehouse', '{"queue": "arrivals"}');
