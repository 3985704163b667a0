SELECT receipt, payload FROM queue.receive('ordered') \gset
SELECT queue.ack(:receipt);
