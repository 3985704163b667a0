SELECT queue.send('bench', :payload);
