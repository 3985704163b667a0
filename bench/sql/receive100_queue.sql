SELECT array_agg(receipt) AS receipts, count(payload) AS n FROM queue.receive('bench', 100) \gset
SELECT 1 / (:n / 100), queue.ack_batch(:receipts);
