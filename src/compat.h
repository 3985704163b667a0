/*
 * compat.h
 *		What differs between PostgreSQL 15 and 19, in one place.
 *
 * Include it from .c files only, after PostgreSQL's own headers.
 */
#ifndef QUEUE_COMPAT_H
#define QUEUE_COMPAT_H

#include "fmgr.h"
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

/* Give a table that is locked exclusively, or an index of it, an empty file. */
#if PG_VERSION_NUM >= 160000
#define RELATION_SET_NEW_FILE(rel) RelationSetNewRelfilenumber(rel, (rel)->rd_rel->relpersistence)
#else
#define RELATION_SET_NEW_FILE(rel) RelationSetNewRelfilenode(rel, (rel)->rd_rel->relpersistence)
#endif

/* Functions for SQL are marked as exported by this itself since 16. */
#if PG_VERSION_NUM < 160000
#undef PG_FUNCTION_INFO_V1
#define PG_FUNCTION_INFO_V1(name) \
	extern PGDLLEXPORT Datum name(PG_FUNCTION_ARGS); \
	extern PGDLLEXPORT const Pg_finfo_record *CppConcat(pg_finfo_, name) (void); \
	const Pg_finfo_record * \
	CppConcat(pg_finfo_, name) (void) \
	{ \
		static const Pg_finfo_record info = {1}; \
\
		return &info; \
	} \
	extern int	no_such_variable
#endif

/* Wait events of extensions have had names since 17. */
#if PG_VERSION_NUM >= 170000
#define WAIT_EVENT(name)	WaitEventExtensionNew(name)
#else
#define WAIT_EVENT(name)	PG_WAIT_EXTENSION
#endif

/* New in 19. */
#ifndef pg_fallthrough
#define pg_fallthrough __attribute__((fallthrough))
#endif

/* Functions that have got another argument in 19 are called as before. */
#if PG_VERSION_NUM >= 190000
#include "access/heapam.h"
#include "catalog/index.h"
#include "catalog/namespace.h"
#define index_build(rel, index, info, isreindex, parallel) \
	(index_build) (rel, index, info, isreindex, parallel, false)
#define heap_delete(rel, tid, cid, crosscheck, wait, tmfd, changing_partition) \
	(heap_delete) (rel, tid, cid, (changing_partition) ? TABLE_DELETE_CHANGING_PARTITION : 0, \
				   crosscheck, wait, tmfd)
#define FuncnameGetCandidates(names, nargs, argnames, variadic, defaults, out_arguments, missing_ok) \
	(FuncnameGetCandidates) (names, nargs, argnames, variadic, defaults, out_arguments, missing_ok, &(int) {0})
#endif

/* A tranche of lightweight locks is named where it is made since 19, before that by each process. */
#if PG_VERSION_NUM >= 190000
#define NEW_LWLOCK_TRANCHE(name)		LWLockNewTrancheId(name)
#define NAME_LWLOCK_TRANCHE(id, name)	((void) 0)
#else
#define NEW_LWLOCK_TRANCHE(name)		LWLockNewTrancheId()
#define NAME_LWLOCK_TRANCHE(id, name)	LWLockRegisterTranche(id, name)
#endif

#endif							/* QUEUE_COMPAT_H */
