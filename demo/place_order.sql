-- One client's turn, run by pgbench: an order and its events commit together,
-- and every seventh customer thinks better of it.
SELECT nextval('turn') AS number \gset
BEGIN;
INSERT INTO orders SELECT number, customer, details FROM log WHERE number = :number;
SELECT queue.send('accounting', o.event, key => o.customer) FROM orders o WHERE number = :number;
SELECT queue.send('shipping', o.event, key => o.customer) FROM orders o WHERE number = :number;
SELECT queue.send('mailing', o.event, key => o.customer) FROM orders o WHERE number = :number;
\if :announced
SELECT queue.send('announcing', o.event, key => o.customer) FROM orders o WHERE number = :number;
\endif
\if :number % 7 = 0
ROLLBACK;
\else
COMMIT;
\endif
