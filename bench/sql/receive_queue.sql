SELECT receipt, payload FROM queue.receive('bench') \gset
SELECT queue.ack(:receipt);
