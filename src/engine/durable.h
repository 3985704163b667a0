/*
 * durable.h
 *		Commits of others that somebody is about to rely on.
 */
#ifndef QUEUE_ENGINE_DURABLE_H
#define QUEUE_ENGINE_DURABLE_H

/*
 * The caller is to be told of what a transaction has done that has committed:
 * flush its commit unless the caller asks for no more than an asynchronous one
 * (synchronous_commit).  Nothing for the current transaction, or for one so old
 * that it is on disk.
 */
extern void durable_commit(TransactionId xid);

#endif							/* QUEUE_ENGINE_DURABLE_H */
