/*
 * cluster.h
 *		Which node of a Redis Cluster has which keys.
 */
#ifndef QUEUE_SINKS_REDIS_CLUSTER_H
#define QUEUE_SINKS_REDIS_CLUSTER_H

#include "sinks/redis/node.h"

#define CLUSTER_SLOTS	16384

/* Nodes that have slots, at most. */
#define CLUSTER_NODES	100

typedef struct Cluster
{
	int			nnodes;
	NodeAddress nodes[CLUSTER_NODES];
	uint8		slots[CLUSTER_SLOTS];	/* which of them has each */
} Cluster;

/* The slot of a key, which is that of what is in its first braces if there is something. */
extern int	cluster_slot(const char *key, int length);

/* One node, which has all. */
extern void cluster_single(Cluster *cluster, const NodeAddress *address);

/*
 * Ask for the map.  Who is asked are this node, and those of the last map that
 * was got from it or by it in this process.  False, with the reason, if none
 * of them tells.
 */
extern bool cluster_discover(Cluster *cluster, const RedisOptions *options,
							 const NodeAddress *seed, TimestampTz deadline, char *error);

/* The number of a node, -1 if it is not in the map. */
extern int	cluster_find(const Cluster *cluster, const NodeAddress *address);

/*
 * Where "MOVED" or "ASK" sends us; false if that is not said.  No host's name
 * is the one that was asked.
 */
extern bool cluster_address(const Reply *reply, int *slot, NodeAddress *address);

#endif							/* QUEUE_SINKS_REDIS_CLUSTER_H */
