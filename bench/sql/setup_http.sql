-- Server, relay and queue :name go to a :port with a :window of requests.
SELECT 'http://127.0.0.1:' || :'port' || '/bench' AS url \gset
CREATE SERVER :name FOREIGN DATA WRAPPER queue_http OPTIONS (url :'url', allow_private 'true');
CREATE USER MAPPING FOR CURRENT_USER SERVER :name;
SELECT queue.create_relay(:'name', :'name', :'name', jsonb_build_object('concurrency', :window));
