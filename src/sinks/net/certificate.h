/*
 * certificate.h
 *		The file of option sslrootcert.
 */
#ifndef QUEUE_SINKS_NET_CERTIFICATE_H
#define QUEUE_SINKS_NET_CERTIFICATE_H

/*
 * Read a file of certificates whole; palloc'd.  It must be a regular file: to
 * open a pipe could wait for ever.  NULL when that fails, with an error that
 * says nothing of the file: who reads it may not be one who may know.  The log
 * has the reason.
 */
extern char *certificate_read(const char *path, int *length, char *error);

#endif							/* QUEUE_SINKS_NET_CERTIFICATE_H */
