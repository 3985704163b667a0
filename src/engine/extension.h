/*
 * extension.h
 *		The extension's own tables and schemas in this database.
 */
#ifndef QUEUE_ENGINE_EXTENSION_H
#define QUEUE_ENGINE_EXTENSION_H

/* Whether the extension exists in this database. */
extern bool extension_exists(void);

/*
 * OID of one of its tables or indexes, of the schema queue; error if missing.
 * extension_relation_if_any: InvalidOid, as while the extension is dropped.
 */
extern Oid	extension_relation(const char *name);
extern Oid	extension_relation_if_any(const char *name);

/* The schema of the queues' tables; error if missing. */
extern Oid	queues_namespace(void);

#endif							/* QUEUE_ENGINE_EXTENSION_H */
