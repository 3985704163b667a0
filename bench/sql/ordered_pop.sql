SELECT id, payload FROM queue.pop('ordered') \gset
