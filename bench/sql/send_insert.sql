INSERT INTO bench.handwritten (payload) VALUES (:payload);
