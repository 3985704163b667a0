/*
 * compat.h
 *		What differs between PostgreSQL 15 and 19, in one place.
 *
 * It brings some of PostgreSQL's headers with it, so include it from a header
 * only for what a declaration needs.
 */
#ifndef QUEUE_COMPAT_H
#define QUEUE_COMPAT_H

#include "fmgr.h"
#include "storage/buf_internals.h"
#include "storage/proc.h"
#include "utils/rel.h"
#include "utils/wait_event.h"

/* The macros of varlenas have had a header of their own since 16. */
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

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

/* Functions of the executor and of DDL that have other arguments by version. */
#if PG_VERSION_NUM >= 190000
#define INSERT_INDEX_TUPLES(target, slot, estate) \
	ExecInsertIndexTuples(target, estate, 0, slot, NIL, NULL)
#elif PG_VERSION_NUM >= 160000
#define INSERT_INDEX_TUPLES(target, slot, estate) \
	ExecInsertIndexTuples(target, slot, estate, false, false, NULL, NIL, false)
#else
#define INSERT_INDEX_TUPLES(target, slot, estate) \
	ExecInsertIndexTuples(target, slot, estate, false, false, NULL, NIL)
#endif

#if PG_VERSION_NUM >= 190000
#define DEFINE_INDEX(relid, statement) \
	DefineIndex(NULL, relid, statement, InvalidOid, InvalidOid, InvalidOid, -1, \
				false, true, false, false, true)
#elif PG_VERSION_NUM >= 160000
#define DEFINE_INDEX(relid, statement) \
	DefineIndex(relid, statement, InvalidOid, InvalidOid, InvalidOid, -1, \
				false, true, false, false, true)
#else
#define DEFINE_INDEX(relid, statement) \
	DefineIndex(relid, statement, InvalidOid, InvalidOid, InvalidOid, \
				false, true, false, false, true)
#endif

#if PG_VERSION_NUM >= 160000
#define COLUMNS_BY_NAME(to, from)	build_attrmap_by_name(to, from, false)
#else
#define COLUMNS_BY_NAME(to, from)	build_attrmap_by_name(to, from)
#endif

/* A scan of an index, of which nobody counts the searches. */
#if PG_VERSION_NUM >= 180000
#define INDEX_BEGINSCAN(rel, index, snapshot, nkeys) \
	index_beginscan(rel, index, snapshot, NULL, nkeys, 0)
#else
#define INDEX_BEGINSCAN(rel, index, snapshot, nkeys) \
	index_beginscan(rel, index, snapshot, nkeys, 0)
#endif

/* How the array of namespaces of reloptions is declared. */
#if PG_VERSION_NUM >= 180000
#define RELOPT_NAMESPACE_ARRAY	static const char *const
#else
#define RELOPT_NAMESPACE_ARRAY	static char *
#endif

/* Whether a role owns a table, a database or an extension. */
#if PG_VERSION_NUM >= 160000
#define OWNS_TABLE(relid, role)		object_ownercheck(RelationRelationId, relid, role)
#define OWNS_DATABASE(dboid, role)	object_ownercheck(DatabaseRelationId, dboid, role)
#define OWNS_EXTENSION(oid, role)	object_ownercheck(ExtensionRelationId, oid, role)
#else
#define OWNS_TABLE(relid, role)		pg_class_ownercheck(relid, role)
#define OWNS_DATABASE(dboid, role)	pg_database_ownercheck(dboid, role)
#define OWNS_EXTENSION(oid, role)	pg_extension_ownercheck(oid, role)
#endif

/* What an interrupted DROP DATABASE leaves; minor releases brought that. */
#ifdef DATCONNLIMIT_INVALID_DB
#define DATABASE_IS_INVALID(form)	database_is_invalid_form(form)
#else
#define DATABASE_IS_INVALID(form)	false
#endif

/* Whether this process has a page locked. */
#if PG_VERSION_NUM >= 190000
#define PAGE_IS_LOCKED(buffer)	BufferIsLockedByMe(buffer)
#else
#define PAGE_IS_LOCKED(buffer) \
	LWLockHeldByMe(BufferDescriptorGetContentLock(GetBufferDescriptor((buffer) - 1)))
#endif

/* Whether a spinlock is taken: for assertions, where this process should have it. */
#ifdef S_LOCK_FREE
#define SPINLOCK_IS_TAKEN(lock)	(!S_LOCK_FREE(lock))
#else
#define SPINLOCK_IS_TAKEN(lock)	true
#endif

/* Whether this process has a table locked for its extension. */
#define EXTENSION_LOCK(rel) \
	&(LOCKTAG) { \
		.locktag_field1 = (rel)->rd_lockInfo.lockRelId.dbId, \
		.locktag_field2 = (rel)->rd_lockInfo.lockRelId.relId, \
		.locktag_type = LOCKTAG_RELATION_EXTEND, \
		.locktag_lockmethodid = DEFAULT_LOCKMETHOD \
	}
#if PG_VERSION_NUM >= 170000
#define EXTENSION_IS_LOCKED(rel) LockHeldByMe(EXTENSION_LOCK(rel), ExclusiveLock, false)
#else
#define EXTENSION_IS_LOCKED(rel) LockHeldByMe(EXTENSION_LOCK(rel), ExclusiveLock)
#endif

/* Add up to n blocks, of max at most, to a table whose extension lock is held. */
#if PG_VERSION_NUM >= 160000
#define EXTEND_TABLE(rel, n, buffers, added) \
	ExtendBufferedRelBy(BMR_REL(rel), MAIN_FORKNUM, NULL, EB_SKIP_EXTENSION_LOCK, n, buffers, added)
#else
#define EXTEND_TABLE(rel, n, buffers, added) \
	((buffers)[0] = ReadBufferExtended(rel, MAIN_FORKNUM, P_NEW, RBM_NORMAL, NULL), *(added) = 1)
#endif

/* One function checks the rights on objects of any catalog since 16. */
#if PG_VERSION_NUM >= 160000
#define FOREIGN_SERVER_ACLCHECK(oid, role, mode) \
	object_aclcheck(ForeignServerRelationId, oid, role, mode)
#define PROCEDURE_ACLCHECK(oid, role, mode) \
	object_aclcheck(ProcedureRelationId, oid, role, mode)
#define CHECK_CAN_SET_ROLE(member, role) check_can_set_role(member, role)
#define QUALIFIED_NAME_LIST(name) stringToQualifiedNameList(name, NULL)
#else
#define FOREIGN_SERVER_ACLCHECK(oid, role, mode) pg_foreign_server_aclcheck(oid, role, mode)
#define PROCEDURE_ACLCHECK(oid, role, mode) pg_proc_aclcheck(oid, role, mode)
#define CHECK_CAN_SET_ROLE(member, role) check_is_member_of_role(member, role)
#define QUALIFIED_NAME_LIST(name) stringToQualifiedNameList(name)
#endif

/* A background worker runs as any role since 17; before that as one that may log in. */
#if PG_VERSION_NUM >= 170000
#define WORKER_NEEDS_LOGIN	false
#else
#define WORKER_NEEDS_LOGIN	true
#endif

/* A setting new in 17, as an element of a list of settings and their values. */
#if PG_VERSION_NUM >= 170000
#define NO_TRANSACTION_TIMEOUT	{"transaction_timeout", "0"},
#else
#define NO_TRANSACTION_TIMEOUT
#endif

/* Wait events of extensions have had names since 17. */
#if PG_VERSION_NUM >= 170000
#define WAIT_EVENT(name)	WaitEventExtensionNew(name)
#else
#define WAIT_EVENT(name)	PG_WAIT_EXTENSION
#endif

/* New in 18. */
#ifndef pg_noreturn
#define pg_noreturn pg_attribute_noreturn()
#endif

/* A set for waiting that the caller frees before an error can occur. */
#if PG_VERSION_NUM >= 170000
#define CREATE_WAIT_EVENT_SET(n)	CreateWaitEventSet(NULL, n)
#else
#define CREATE_WAIT_EVENT_SET(n)	CreateWaitEventSet(CurrentMemoryContext, n)
#endif

/* New in 19. */
#ifndef pg_fallthrough
#define pg_fallthrough __attribute__((fallthrough))
#endif

/* A TupleDesc whose columns are filled in is made fit for use: new in 19. */
#if PG_VERSION_NUM >= 190000
#define FINALIZE_TUPLE_DESC(desc)	TupleDescFinalize(desc)
#else
#define FINALIZE_TUPLE_DESC(desc)	((void) 0)
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
