/*
 * address.c
 *		Which addresses are on the public internet.
 *
 * After IANA's registries of special-purpose addresses.  Of IPv6, what is not
 * said to be public is not.
 */
#include "postgres.h"

#include <netinet/in.h>

#include "sinks/http/address.h"

typedef struct Range
{
	unsigned char prefix[4];
	int			bits;
} Range;

static const Range private4[] = {
	{{0}, 8},					/* this host, this network */
	{{10}, 8},
	{{100, 64}, 10},			/* of providers, for NAT */
	{{127}, 8},
	{{169, 254}, 16},			/* link-local: clouds tell secrets there */
	{{172, 16}, 12},
	{{192, 0, 0}, 24},			/* protocol assignments */
	{{192, 0, 2}, 24},			/* documentation, and two more below */
	{{192, 88, 99}, 24},		/* relays of 6to4 */
	{{192, 168}, 16},
	{{198, 18}, 15},			/* benchmarks */
	{{198, 51, 100}, 24},
	{{203, 0, 113}, 24},
	{{224}, 4},					/* multicast */
	{{240}, 4},					/* reserved, broadcast */
};

/* Within 2000::/3, which is all that is given out. */
static const Range private6[] = {
	{{0x20, 0x01, 0x00}, 23},	/* protocol assignments, Teredo */
	{{0x20, 0x01, 0x0D, 0xB8}, 32}, /* documentation, and one more below */
	{{0x3F, 0xFF}, 20},
};

static bool
is_within(const unsigned char *address, const Range *ranges, int n)
{
	for (int i = 0; i < n; i++)
	{
		int			bytes = ranges[i].bits / 8;
		int			rest = ranges[i].bits % 8;
		unsigned char mask = (unsigned char) (0xFF << (8 - rest));

		if (memcmp(address, ranges[i].prefix, bytes) == 0 &&
			(rest == 0 || (address[bytes] & mask) == (ranges[i].prefix[bytes] & mask)))
			return true;
	}
	return false;
}

static bool
is_public4(const unsigned char *address)
{
	return !is_within(address, private4, lengthof(private4));
}

static bool
is_public6(const unsigned char *address)
{
	static const unsigned char mapped[12] = {[10] = 0xFF,[11] = 0xFF};
	static const unsigned char nat64[12] = {0x00, 0x64, 0xFF, 0x9B};
	static const unsigned char to4[2] = {0x20, 0x02};

	/* An address of IPv4 in another form is what it is. */
	if (memcmp(address, mapped, sizeof(mapped)) == 0 || memcmp(address, nat64, sizeof(nat64)) == 0)
		return is_public4(address + 12);
	if (memcmp(address, to4, sizeof(to4)) == 0)
		return is_public4(address + 2);
	return (address[0] & 0xE0) == 0x20 && !is_within(address, private6, lengthof(private6));
}

bool
address_is_public(const struct sockaddr *address)
{
	if (address->sa_family == AF_INET)
	{
		struct sockaddr_in in;

		memcpy(&in, address, sizeof(in));
		return is_public4((const unsigned char *) &in.sin_addr);
	}
	if (address->sa_family == AF_INET6)
	{
		struct sockaddr_in6 in6;

		memcpy(&in6, address, sizeof(in6));
		return is_public6((const unsigned char *) &in6.sin6_addr);
	}
	return false;
}
