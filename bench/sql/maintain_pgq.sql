-- What pgqd does every now and then.
SELECT CASE WHEN func_name = 'vacuum' THEN 'VACUUM ' || func_arg
	ELSE format('SELECT %s(%L)', func_name, func_arg) END
FROM pgq.maint_operations() WHERE func_arg IS NOT NULL
UNION ALL
SELECT format('SELECT %s()', func_name)
FROM pgq.maint_operations() WHERE func_arg IS NULL
\gexec
