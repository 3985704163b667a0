/*
 * object.h
 *		What DDL on a queue's table entails.
 */
#ifndef QUEUE_SQL_OBJECT_H
#define QUEUE_SQL_OBJECT_H

/* Install the object access hook. */
extern void object_init(void);

#endif							/* QUEUE_SQL_OBJECT_H */
