SELECT count(*) FROM queue.send_batch('bench', array_fill((:payload)::jsonb, ARRAY[1000]));
