/*
 * compat.h
 *		What differs between PostgreSQL 15 and 19, in one place.
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

/* Give a table that is locked exclusively, or an index of it, an empty file. */
#if PG_VERSION_NUM >= 160000
#define RELATION_SET_NEW_FILE(rel) RelationSetNewRelfilenumber(rel, (rel)->rd_rel->relpersistence)
#else
#define RELATION_SET_NEW_FILE(rel) RelationSetNewRelfilenode(rel, (rel)->rd_rel->relpersistence)
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

/* Wait events of extensions have had names since 17. */
#if PG_VERSION_NUM >= 170000
#define WAIT_EVENT(name)	WaitEventExtensionNew(name)
#else
#define WAIT_EVENT(name)	PG_WAIT_EXTENSION
#endif

/* A set for waiting that is freed before anything can go wrong. */
#if PG_VERSION_NUM >= 170000
#define CREATE_WAIT_EVENT_SET(n)	CreateWaitEventSet(NULL, n)
#else
#define CREATE_WAIT_EVENT_SET(n)	CreateWaitEventSet(CurrentMemoryContext, n)
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
