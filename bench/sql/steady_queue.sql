SELECT queue.send('bench', bench.stamped());
