-- How many events there are, and a checksum over them whatever their order.
CREATE FUNCTION fingerprint(events text[]) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN (
	SELECT format('%s %s', count(*),
		encode(sha256(convert_to(coalesce(string_agg(event, E'\n' ORDER BY event COLLATE "C"), ''), 'UTF8')), 'hex'))
	FROM unnest(events) AS event
);
