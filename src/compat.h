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

/* Wait events of extensions have had names since 17. */
#if PG_VERSION_NUM >= 170000
#define WAIT_EVENT(name)	WaitEventExtensionNew(name)
#else
#define WAIT_EVENT(name)	PG_WAIT_EXTENSION
#endif

#endif							/* QUEUE_COMPAT_H */
