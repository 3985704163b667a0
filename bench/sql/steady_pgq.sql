SELECT pgq.insert_event('bench', 'order.paid', bench.stamped()::text);
