/*
 * compat.h
 *		What differs between PostgreSQL 15 and 18, in one place.
 *
 * Include it from .c files only, after PostgreSQL's own headers.
 */
#ifndef QUEUE_COMPAT_H
#define QUEUE_COMPAT_H

#include "storage/proc.h"
#include "utils/rel.h"
#include "utils/wait_event.h"

#if PG_VERSION_NUM >= 170000
#define MY_PROCNO MyProcNumber
#else
#define MY_PROCNO (MyProc->pgprocno)
#endif

#if PG_VERSION_NUM >= 160000
#define RELATION_FILE_NUMBER(rel) ((rel)->rd_locator.relNumber)
#else
#define RELATION_FILE_NUMBER(rel) ((rel)->rd_node.relNode)
#endif

/* Give a table that is locked exclusively an empty file, or its indexes anew. */
#if PG_VERSION_NUM >= 160000
#define RELATION_SET_NEW_FILE(rel) RelationSetNewRelfilenumber(rel, (rel)->rd_rel->relpersistence)
#else
#define RELATION_SET_NEW_FILE(rel) RelationSetNewRelfilenode(rel, (rel)->rd_rel->relpersistence)
#endif
#if PG_VERSION_NUM >= 170000
#define REINDEX_RELATION(relid, flags) \
	((void) reindex_relation(NULL, relid, flags, &(ReindexParams) {0}))
#else
#define REINDEX_RELATION(relid, flags) \
	((void) reindex_relation(relid, flags, &(ReindexParams) {0}))
#endif

/* Wait events of extensions have had names since 17. */
#if PG_VERSION_NUM >= 170000
#define WAIT_EVENT(name)	WaitEventExtensionNew(name)
#else
#define WAIT_EVENT(name)	PG_WAIT_EXTENSION
#endif

#endif							/* QUEUE_COMPAT_H */
