INSERT INTO bench.handwritten (payload) VALUES (bench.stamped());
