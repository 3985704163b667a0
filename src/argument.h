/*
 * argument.h
 *		Checks of what SQL hands over, with one wording for each.
 */
#ifndef QUEUE_ARGUMENT_H
#define QUEUE_ARGUMENT_H

/* Raise 22023 unless a message's headers are a JSON object. */
extern void argument_headers(Datum headers);

#endif							/* QUEUE_ARGUMENT_H */
