/*
 * stop_point.h
 *		Places where a test can stop a process.
 *
 * STOP_POINT(name) is nothing in a normal build.  In a test build (see
 * test/run) a process that comes by waits while another one holds the
 * advisory lock (hashtext(name), process id).  It is an ordinary heavyweight
 * lock, so isolationtester sees that a session waits, pg_locks shows where,
 * and a process that is not to be stopped goes on at once.
 *
 * A process can be stopped with LWLocks or buffer locks held, in a callback of
 * commit or abort, and in a background worker of its database; not with a
 * spinlock or the relation extension lock held, nor in a critical section.  It
 * does not answer interrupts while it is stopped.
 */
#ifndef QUEUE_STOP_POINT_H
#define QUEUE_STOP_POINT_H

#ifdef QUEUE_STOP_POINTS
extern void stop_point(const char *name);

#define STOP_POINT(name)	stop_point(name)
#else
#define STOP_POINT(name)	((void) 0)
#endif

#endif							/* QUEUE_STOP_POINT_H */
