/*
 * object.h
 *		What we do when objects are created, altered and dropped.
 */
#ifndef QUEUE_SQL_OBJECT_H
#define QUEUE_SQL_OBJECT_H

extern void object_init(void);

#endif							/* QUEUE_SQL_OBJECT_H */
