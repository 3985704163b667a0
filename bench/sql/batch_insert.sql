INSERT INTO bench.handwritten (payload) SELECT unnest(array_fill((:payload)::jsonb, ARRAY[1000]));
