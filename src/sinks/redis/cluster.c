/*
 * cluster.c
 *		Which node of a Redis Cluster has which keys.
 *
 * The map is what a node answers to CLUSTER NODES, one line of text for each:
 *
 *	<id> <host>:<port>@<port>[,<name>[,...]] <flags> <master> <ping> <pong> <epoch> <state> <slots>...
 *
 * where a slot is a number or a range of them, or, in brackets, on its way.
 * No slot is named twice: reading a map takes no longer than it is long.
 */
#include "postgres.h"

#include "sinks/redis/cluster.h"
#include "sinks/redis/words.h"
#include "sinks/text.h"
#include "utils/timestamp.h"

/* Longest map: all slots one by one are not 100 kB. */
#define MAP_SIZE		(1024 * 1024)

/* Fields of a line before its slots, and which of them we need. */
#define FIELDS_FIRST	8
#define FIELD_ADDRESS	1
#define FIELD_FLAGS		2

/* The last map's nodes, and the one it was found by: that one may be gone. */
static NodeAddress known_seed;
static int	nknown;
static NodeAddress known[CLUSTER_NODES];

/* The cyclic redundancy check of XMODEM. */
static uint16
crc16(const char *data, int length)
{
	uint16		crc = 0;

	for (int i = 0; i < length; i++)
	{
		crc ^= (uint16) ((unsigned char) data[i] << 8);
		for (int bit = 0; bit < 8; bit++)
			crc = (uint16) (crc & 0x8000 ? (crc << 1) ^ 0x1021 : crc << 1);
	}
	return crc;
}

int
cluster_slot(const char *key, int length)
{
	const char *open = memchr(key, '{', length);
	const char *end = key + length;
	const char *close = open ? memchr(open, '}', end - open) : NULL;

	if (close && close > open + 1)
		return crc16(open + 1, (int) (close - open - 1)) % CLUSTER_SLOTS;
	return crc16(key, length) % CLUSTER_SLOTS;
}

void
cluster_single(Cluster *cluster, const NodeAddress *address)
{
	cluster->nnodes = 1;
	cluster->nodes[0] = *address;
	memset(cluster->slots, 0, sizeof(cluster->slots));
}

/* Whether an address is that of a node, which may have a name besides. */
static bool
same_address(const NodeAddress *node, const NodeAddress *address)
{
	return node->port == address->port &&
		(strcmp(node->host, address->host) == 0 ||
		 (node->name[0] != '\0' && strcmp(node->name, address->host) == 0));
}

int
cluster_find(const Cluster *cluster, const NodeAddress *address)
{
	for (int i = 0; i < cluster->nnodes; i++)
	{
		if (same_address(&cluster->nodes[i], address))
			return i;
	}
	return -1;
}

bool
cluster_address(const Reply *reply, int *slot, NodeAddress *address)
{
	const char *c = strchr(reply->text, ' ');
	const char *host;
	const char *colon;
	char	   *end;
	long		number;

	/* "MOVED 3999 127.0.0.1:6381" */
	if (c == NULL)
		return false;
	errno = 0;
	number = strtol(c + 1, &end, 10);
	if (errno != 0 || end == c + 1 || *end != ' ' || number < 0 || number >= CLUSTER_SLOTS)
		return false;
	*slot = (int) number;
	host = end + 1;
	colon = strrchr(host, ':');
	if (colon == NULL || colon - host >= NODE_HOST)
		return false;
	number = strtol(colon + 1, &end, 10);
	if (errno != 0 || end == colon + 1 || *end != '\0' || number < 1 || number > 65535)
		return false;
	memcpy(address->host, host, colon - host);
	address->host[colon - host] = '\0';
	address->name[0] = '\0';
	address->port = (int) number;
	return strcmp(address->host, "?") != 0;
}

/*
 * The map
 */

/* Take "<host>:<port>@<port>,<name>" apart; no host is the one that was asked. */
static bool
read_address(const char *field, const NodeAddress *asked, NodeAddress *address)
{
	const char *end = field + strcspn(field, "@,");
	const char *colon = end;
	const char *name = end + strcspn(end, ",");
	long		port;
	Size		length;

	while (colon > field && *colon != ':')
		colon--;
	if (*colon != ':' || colon - field >= NODE_HOST)
		return false;
	port = strtol(colon + 1, NULL, 10);
	if (port < 1 || port > 65535)
		return false;
	memcpy(address->host, field, colon - field);
	address->host[colon - field] = '\0';
	address->port = (int) port;
	if (address->host[0] == '\0')
		strlcpy(address->host, asked->host, NODE_HOST);
	if (*name == ',')
		name++;
	length = strcspn(name, ",");
	if (length >= NODE_HOST)
		return false;
	memcpy(address->name, name, length);
	address->name[length] = '\0';
	return true;
}

/* Take "<slot>" or "<slot>-<slot>" apart. */
static bool
read_range(const char *field, int *first, int *last)
{
	char	   *end;
	long		from = strtol(field, &end, 10);
	long		to = *end == '-' ? strtol(end + 1, &end, 10) : from;

	if (*end != '\0' || from < 0 || to < from || to >= CLUSTER_SLOTS)
		return false;
	*first = (int) from;
	*last = (int) to;
	return true;
}

/* Enter what a line says of a node; false if it makes no sense. */
static bool
read_line(Cluster *cluster, bool *covered, char *line, const NodeAddress *asked)
{
	char	   *rest = line;
	char	   *field;
	NodeAddress address;
	bool		is_master = false;
	bool		entered = false;

	for (int i = 0; (field = strsep(&rest, " ")) != NULL; i++)
	{
		int			first;
		int			last;

		if (i == FIELD_ADDRESS && !read_address(field, asked, &address))
			return strncmp(field, ":0@", 3) == 0;	/* one that is not known
													 * any more */
		if (i == FIELD_FLAGS)
			is_master = strstr(field, "master") != NULL;
		if (i < FIELDS_FIRST || field[0] == '[' || field[0] == '\0')
			continue;
		if (!is_master || !read_range(field, &first, &last))
			return false;
		if (!entered)
		{
			if (cluster->nnodes == CLUSTER_NODES)
				return false;
			cluster->nodes[cluster->nnodes++] = address;
			entered = true;
		}
		for (int slot = first; slot <= last; slot++)
		{
			if (covered[slot])
				return false;
			cluster->slots[slot] = cluster->nnodes - 1;
			covered[slot] = true;
		}
	}
	return true;
}

static bool
read_map(Cluster *cluster, char *map, const NodeAddress *asked, char *error)
{
	bool		covered[CLUSTER_SLOTS] = {false};
	char	   *rest = map;
	char	   *line;

	cluster->nnodes = 0;
	memset(cluster->slots, 0, sizeof(cluster->slots));
	while ((line = strsep(&rest, "\n")) != NULL)
	{
		if (line[0] == '\0' || read_line(cluster, covered, line, asked))
			continue;
		text_say(error, "the server's list of the cluster's nodes cannot be understood");
		return false;
	}
	for (int slot = 0; slot < CLUSTER_SLOTS; slot++)
	{
		if (covered[slot])
			continue;
		text_say(error, "no node of the cluster has slot %d", slot);
		return false;
	}
	return true;
}

/* Ask one node; half of the time that is left is for others. */
static bool
ask(Cluster *cluster, const RedisOptions *options, const NodeAddress *address,
	TimestampTz last, char *error)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz deadline = now + (last - now) / 2;
	RedisNode  *node = node_open(options, address, deadline, error);
	char	   *map;
	Reply		reply;
	bool		told;

	if (node == NULL)
		return false;
	map = palloc(MAP_SIZE);
	reply_reader_space(node->reader, map, MAP_SIZE);
	command_put(node_output(node), "CLUSTER", "NODES", NULL);
	told = node_await(node, &reply, deadline, error);
	if (told && reply.type != REPLY_TEXT)
	{
		told = false;
		if (reply.type == REPLY_ERROR)
			words_say(error, "CLUSTER NODES", &reply);
		else
			strlcpy(error, "the server sent something unexpected", SINK_ERROR_SIZE);
	}
	told = told && read_map(cluster, map, address, error);
	node_close(node);
	pfree(map);
	return told;
}

bool
cluster_discover(Cluster *cluster, const RedisOptions *options, const NodeAddress *seed,
				 TimestampTz deadline, char *error)
{
	char		ignored[SINK_ERROR_SIZE];
	bool		told = ask(cluster, options, seed, deadline, error);

	if (!same_address(seed, &known_seed))
		nknown = 0;
	for (int i = 0; i < nknown && !told; i++)
		told = ask(cluster, options, &known[i], deadline, ignored);
	if (!told)
		return false;
	known_seed = *seed;
	nknown = cluster->nnodes;
	memcpy(known, cluster->nodes, nknown * sizeof(NodeAddress));
	return true;
}
