--
-- Idempotency keys: a request that is made again is not served again
--

-- All in one transaction: nobody sees it half done, and an error forgets it.
BEGIN;
SELECT * FROM queue.idempotency_begin('POST /orders', 'key-1', 'digest 1');
-- ... the work ...
SELECT queue.idempotency_complete('POST /orders', 'key-1', '{"status": 201, "order": 1}');
COMMIT;
-- Made again, it has its answer.
SELECT * FROM queue.idempotency_begin('POST /orders', 'key-1', 'digest 1');
-- The same key with another request is an error of the client's: 422
SELECT * FROM queue.idempotency_begin('POST /orders', 'key-1', 'digest 2');
-- What has no fingerprint is not compared.
SELECT * FROM queue.idempotency_begin('POST /orders', 'key-1');
-- Other scopes have keys of their own.
SELECT * FROM queue.idempotency_begin('POST /refunds', 'key-1', 'digest 1');

-- In transactions of their own, with work elsewhere between: who comes meanwhile is told so, 409
SELECT * FROM queue.idempotency_begin('POST /orders', 'key-2', 'digest 1');
SELECT * FROM queue.idempotency_begin('POST /orders', 'key-2', 'digest 1');
SELECT * FROM queue.idempotency_begin('POST /orders', 'key-2', 'digest 2');
SELECT queue.idempotency_complete('POST /orders', 'key-2', '"done"');
SELECT * FROM queue.idempotency_begin('POST /orders', 'key-2', 'digest 1');
-- Work that failed can be tried again.
SELECT * FROM queue.idempotency_begin('POST /orders', 'key-3', 'digest 1');
SELECT queue.idempotency_fail('POST /orders', 'key-3');
SELECT * FROM queue.idempotency_begin('POST /orders', 'key-3', 'digest 2');
-- What is not in progress can be neither completed nor failed.
SELECT queue.idempotency_complete('POST /orders', 'key-1', '"other"'), queue.idempotency_fail('POST /orders', 'key-1');
SELECT queue.idempotency_complete('POST /orders', 'none', '1'), queue.idempotency_fail('POST /orders', 'none');
SELECT queue.idempotency_complete('POST /other', 'key-3', '1'), queue.idempotency_fail('POST /other', 'key-3');
SELECT * FROM queue.idempotency_begin('POST /orders', 'key-1', 'digest 1');
-- There need be no answer, and null is one.
SELECT queue.idempotency_complete('POST /orders', 'key-3');
SELECT status, response IS NULL AS none FROM queue.idempotency_begin('POST /orders', 'key-3', 'digest 2');
SELECT status FROM queue.idempotency_begin('POST /orders', 'key-4');
SELECT queue.idempotency_complete('POST /orders', 'key-4', 'null');
SELECT status, response FROM queue.idempotency_begin('POST /orders', 'key-4', 'digest 3');
-- A large answer
SELECT status FROM queue.idempotency_begin('POST /orders', 'large');
SELECT queue.idempotency_complete('POST /orders', 'large', (SELECT jsonb_agg(md5(i::text)) FROM generate_series(1, 10000) i));
SELECT status, jsonb_array_length(response) FROM queue.idempotency_begin('POST /orders', 'large');
-- A driver's parameters that have no type
PREPARE begin_request AS SELECT * FROM queue.idempotency_begin($1, $2, $3);
EXECUTE begin_request('POST /orders', 'key-2', 'digest 1');
DEALLOCATE begin_request;
PREPARE complete_request AS SELECT queue.idempotency_complete($1, $2, $3);
EXECUTE complete_request('POST /orders', 'key-2', '{}');
DEALLOCATE complete_request;

-- Rollbacks
BEGIN;
SELECT status FROM queue.idempotency_begin('rolled back', '1');
SELECT queue.idempotency_complete('rolled back', '1', '1');
ROLLBACK;
BEGIN;
SELECT status FROM queue.idempotency_begin('rolled back', '1');
SAVEPOINT a;
SELECT queue.idempotency_complete('rolled back', '1', '1');
ROLLBACK TO a;
SELECT status FROM queue.idempotency_begin('rolled back', '1');
SAVEPOINT b;
SELECT queue.idempotency_fail('rolled back', '1');
ROLLBACK TO b;
SELECT status FROM queue.idempotency_begin('rolled back', '1');
SELECT queue.idempotency_complete('rolled back', '1', '2');
COMMIT;
SELECT * FROM queue.idempotency_begin('rolled back', '1');

-- A request that was begun, and whose server died, can be begun again after its ttl.
SELECT * FROM queue.idempotency_begin('died', '1', 'a', ttl => '1 us');
SELECT * FROM queue.idempotency_begin('died', '1', 'b', ttl => '1 us');
-- By then it is too late to complete it, or to fail.
SELECT queue.idempotency_complete('died', '1', '1'), queue.idempotency_fail('died', '1');
SELECT * FROM queue.idempotency_begin('died', '1', 'c');
-- The answer is kept as long as begin has said, from then on, or as complete says, from there on.
SELECT queue.idempotency_complete('died', '1', '"kept for a day"');
SELECT * FROM queue.idempotency_begin('kept', '1', ttl => '1 minute');
SELECT queue.idempotency_complete('kept', '1', '"kept for a week"', ttl => '7 days');
SELECT * FROM queue.idempotency_begin('kept', '2');
SELECT queue.idempotency_complete('kept', '2', '"kept for no time"', ttl => '1 us');
SELECT * FROM queue.idempotency_begin('kept', '2');
SELECT scope, key, completed, response, round(extract(epoch FROM expires_at - now()) / 3600) AS hours
	FROM queue.idempotency WHERE scope IN ('died', 'kept') ORDER BY 1, 2;

--
-- What a role has begun is its own.
--
CREATE ROLE regress_shop;
CREATE ROLE regress_thief;
SET ROLE regress_shop;
SELECT * FROM queue.idempotency_begin('pay', 'key-1', 'digest');
SET ROLE regress_thief;
SELECT queue.idempotency_complete('pay', 'key-1', '"spoilt"'), queue.idempotency_fail('pay', 'key-1');
SELECT * FROM queue.idempotency_begin('pay', 'key-1', 'other digest');
SELECT queue.idempotency_complete('pay', 'key-1', '"spoilt"');
SELECT * FROM queue.idempotency_begin('pay', 'key-2');
SELECT * FROM queue.idempotency;
SET ROLE regress_shop;
SELECT * FROM queue.idempotency_begin('pay', 'key-1', 'digest');
SELECT queue.idempotency_complete('pay', 'key-1', '"paid"');
SELECT * FROM queue.idempotency_begin('pay', 'key-1', 'digest');
SELECT * FROM queue.idempotency_begin('pay', 'key-2');
SET ROLE regress_thief;
SELECT * FROM queue.idempotency_begin('pay', 'key-1', 'other digest');
RESET ROLE;
SELECT role, key, response FROM queue.idempotency WHERE role LIKE 'regress%' ORDER BY 1, 2;
DROP ROLE regress_shop, regress_thief;

DELETE FROM queue.idempotency;
