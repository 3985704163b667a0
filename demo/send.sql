-- One of the orders that were not rolled back, run by pgbench: its event again.
\set number 1 + 7 * random(0, :sevenths)
SELECT queue.send('measured', o.event) FROM orders o WHERE number = :number;
