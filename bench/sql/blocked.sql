SELECT receipt, payload FROM queue.receive(:queue) \gset
SELECT queue.ack(:receipt);
