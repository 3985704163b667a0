/*
 * input.h
 *		What an AMQP 0-9-1 broker sends, taken apart.
 *
 * Only what a publisher can be sent is understood; anything else, and any
 * length that does not fit, is a violation of the protocol.  Nothing is
 * allocated and nothing is recursive, however hostile the broker.
 */
#ifndef QUEUE_SINKS_AMQP_INPUT_H
#define QUEUE_SINKS_AMQP_INPUT_H

/* A frame's type, channel and size before its payload, and the end after. */
#define FRAME_HEADER	7
#define FRAME_FOOTER	1

/* The least a broker may want the longest frame to be. */
#define FRAME_MIN		4096

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
extern int	input_frame(const char *data, int length, uint32 frame_max, Frame *frame, char *error);

#endif							/* QUEUE_SINKS_AMQP_INPUT_H */
