/*
 * protocol.h
 *		What we use of AMQP 0-9-1.
 */
#ifndef QUEUE_SINKS_AMQP_PROTOCOL_H
#define QUEUE_SINKS_AMQP_PROTOCOL_H

/* The headers moved with version 0.13, and the old names warn. */
#if __has_include(<rabbitmq-c/amqp.h>)
#include <rabbitmq-c/amqp.h>
#include <rabbitmq-c/framing.h>
#else
#include <amqp.h>
#include <amqp_framing.h>
#endif

/* The channel we publish on. */
#define PUBLISH_CHANNEL	1

/* What we ask for as the longest frame; the broker may want less. */
#define FRAME_MAX		131072

/* The least a broker may want the longest frame to be. */
#define FRAME_MIN		4096

/* A frame's type, channel and size before its payload, and the end after. */
#define FRAME_HEADER	7
#define FRAME_FOOTER	1

/* Space for any method we send: its longest arguments are short strings. */
#define METHOD_MAX		4096

#endif							/* QUEUE_SINKS_AMQP_PROTOCOL_H */
