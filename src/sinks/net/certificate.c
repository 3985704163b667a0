/*
 * certificate.c
 *		The file of option sslrootcert.
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "relay/sink.h"
#include "sinks/net/certificate.h"

/* All the system's authorities take less than a quarter of it. */
#define FILE_MAX	(1024 * 1024)

/* Read an open file; NULL, with the reason in errno or 0, if that fails. */
static char *
read_all(int fd, int *length)
{
	struct stat st;
	char	   *data;
	ssize_t		n = 0;

	if (fstat(fd, &st) != 0)
		return NULL;
	errno = 0;
	if (!S_ISREG(st.st_mode) || st.st_size > FILE_MAX)
		return NULL;

	data = palloc(st.st_size + 1);
	for (*length = 0; *length < st.st_size; *length += n)
	{
		n = read(fd, data + *length, st.st_size - *length);
		if (n < 0 && errno == EINTR)
			n = 0;
		else if (n < 0)
			return NULL;
		else if (n == 0)
			break;
	}
	data[*length] = '\0';
	return data;
}

char *
certificate_read(const char *path, int *length, char *error)
{
	int			fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
	char	   *data = fd >= 0 ? read_all(fd, length) : NULL;

	if (data == NULL)
	{
		const char *why = errno ? strerror(errno) : "not a regular file of a sensible size";

		ereport(LOG, (errmsg("could not read certificates from \"%s\": %s", path, why)));
		strlcpy(error, "could not read the certificates of option \"sslrootcert\"", SINK_ERROR_SIZE);
	}
	if (fd >= 0)
		close(fd);
	return data;
}
