-- :batch is the relay's window of unconfirmed messages.
CREATE SERVER kafka FOREIGN DATA WRAPPER queue_kafka OPTIONS (brokers :'brokers');
CREATE USER MAPPING FOR CURRENT_USER SERVER kafka;
SELECT queue.create_relay('bench', 'bench', 'kafka', jsonb_build_object('topic', 'bench', 'batch', :batch));
