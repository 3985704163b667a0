/*
 * frame.h
 *		Frames of AMQP 0-9-1: written, and taken apart.
 *
 * librabbitmq encodes arguments.  Of what comes only what a publisher can be
 * sent is understood; anything else, and any length that does not fit, is a
 * violation of the protocol.  Nothing is allocated for it and nothing is
 * recursive, however hostile the broker.
 */
#ifndef QUEUE_SINKS_AMQP_FRAME_H
#define QUEUE_SINKS_AMQP_FRAME_H

#include "lib/stringinfo.h"
#include "sinks/amqp/protocol.h"

/* Bytes of the broker's: no terminator, any encoding. */
typedef struct Words
{
	const char *data;
	int			length;
} Words;

/* A frame, in the buffer it was read into. */
typedef struct Frame
{
	int			type;			/* AMQP_FRAME_... */
	int			channel;
	uint32		size;			/* of the payload */
	uint32		method;			/* of a method: AMQP_..._METHOD */

	/* Arguments, as far as the method has them. */
	int			code;			/* of a close or a return */
	Words		text;			/* of those; why it is blocked */
	Words		exchange;
	Words		routing_key;
	uint64		tag;
	bool		flag;			/* multiple; active */
	uint32		frame_max;
	int			heartbeat;		/* seconds */

	/* Of a content header. */
	uint64		body_size;
	Words		message_id;
} Frame;

/*
 * Take a frame from the start of some bytes.  Returns its length with header
 * and end; 0 if it is not complete; -1, with the reason in error, if it is
 * not what a broker may send.  frame_max is for the frame as a whole.
 */
extern int	frame_read(const char *data, int length, uint32 frame_max, Frame *frame, char *error);

/* Append a method; there must be no error but one of our own making. */
extern void frame_put_method(StringInfo out, amqp_channel_t channel,
							 amqp_method_number_t id, void *method);

/* Append a content header; false, with nothing appended, if no frame takes it. */
extern bool frame_put_header(StringInfo out, uint32 frame_max, uint64 body_size,
							 amqp_basic_properties_t *properties);

/* Append a body, in as many frames as it takes. */
extern void frame_put_body(StringInfo out, uint32 frame_max, const char *data, Size size);

extern void frame_put_heartbeat(StringInfo out);

#endif							/* QUEUE_SINKS_AMQP_FRAME_H */
