-- Dedup keys: a message that is sent again is not sent twice.
SELECT queue.create('orders');

-- The second send with a key sends nothing, and returns the first one's id.
SELECT queue.send('orders', '{"order": 1}', dedup_key => 'order 1') AS first \gset
SELECT queue.send('orders', '{"order": 1}', dedup_key => 'order 1') = :first AS same;
SELECT payload FROM queues.orders;

-- send_once tells the two cases apart.
SELECT id = :first AS same, duplicate FROM queue.send_once('orders', 'order 1', '{"order": 1}');
SELECT id > :first AS new, duplicate FROM queue.send_once('orders', 'order 2', '{"order": 2}');
