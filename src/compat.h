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

/* Functions whose arguments are others from one version to the next. */
#if PG_VERSION_NUM >= 190000
#define insert_index_tuples(target, slot, estate) \
	ExecInsertIndexTuples(target, estate, 0, slot, NIL, NULL)
#define define_index(relid, statement) \
	DefineIndex(NULL, relid, statement, InvalidOid, InvalidOid, InvalidOid, -1, \
				false, true, false, false, true)
#elif PG_VERSION_NUM >= 160000
#define insert_index_tuples(target, slot, estate) \
	ExecInsertIndexTuples(target, slot, estate, false, false, NULL, NIL, false)
#define define_index(relid, statement) \
	DefineIndex(relid, statement, InvalidOid, InvalidOid, InvalidOid, -1, \
				false, true, false, false, true)
#else
#define insert_index_tuples(target, slot, estate) \
	ExecInsertIndexTuples(target, slot, estate, false, false, NULL, NIL)
#define define_index(relid, statement) \
	DefineIndex(relid, statement, InvalidOid, InvalidOid, InvalidOid, \
				false, true, false, false, true)
#endif

/* What 16 has, for 15. */
#if PG_VERSION_NUM < 160000
#include "access/attmap.h"
#include "catalog/pg_class_d.h"
#include "catalog/pg_database_d.h"
#include "catalog/pg_proc_d.h"
#include "storage/bufmgr.h"
#include "utils/regproc.h"
#define build_attrmap_by_name(in, out, missing_ok)	(build_attrmap_by_name) (in, out)
#define stringToQualifiedNameList(string, escontext)	(stringToQualifiedNameList) (string)
#define check_can_set_role(member, role)	check_is_member_of_role(member, role)
#define object_ownercheck(classid, objectid, role) \
	((classid) == RelationRelationId ? pg_class_ownercheck(objectid, role) : \
	 (classid) == DatabaseRelationId ? pg_database_ownercheck(objectid, role) : \
	 pg_extension_ownercheck(objectid, role))
#define object_aclcheck(classid, objectid, role, mode) \
	((classid) == ProcedureRelationId ? pg_proc_aclcheck(objectid, role, mode) : \
	 pg_foreign_server_aclcheck(objectid, role, mode))

#define BMR_REL(rel)			(rel)
#define EB_SKIP_EXTENSION_LOCK	0

/* One block at a time; the caller has the lock. */
static inline BlockNumber
ExtendBufferedRelBy(Relation rel, ForkNumber fork, BufferAccessStrategy strategy, uint32 flags,
					uint32 extend_by, Buffer *buffers, uint32 *extended_by)
{
	buffers[0] = ReadBufferExtended(rel, fork, P_NEW, RBM_NORMAL, strategy);
	*extended_by = 1;
	return BufferGetBlockNumber(buffers[0]);
}
#endif

/* New in 18: the names of namespaces are constants. */
#if PG_VERSION_NUM >= 180000
#define RELOPT_NAMESPACE	const char *const
#else
#define RELOPT_NAMESPACE	char *
#endif

/* A background worker can run as a role that may not log in since 17. */
#define WORKERS_LOG_IN			(PG_VERSION_NUM < 170000)

#define HAS_TRANSACTION_TIMEOUT (PG_VERSION_NUM >= 170000)

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
	(FuncnameGetCandidates) (names, nargs, argnames, variadic, defaults, out_arguments, missing_ok, \
							 &(int) {0})
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
