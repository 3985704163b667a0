/*
 * deed.c
 *		What this transaction did to leases, to be undone or finished at its end.
 */
#include "postgres.h"

#include "access/xact.h"
#include "engine/deed.h"
#include "utils/memutils.h"

static LeaseDeed *deeds = NULL;
static int	ndeeds = 0;
static int	max_deeds = 0;

void
deed_reserve(void)
{
	int			max;

	if (ndeeds < max_deeds)
		return;
	max = Max(64, max_deeds * 2);
	if (deeds == NULL)
		deeds = MemoryContextAllocHuge(TopMemoryContext, (Size) max * sizeof(LeaseDeed));
	else
		deeds = repalloc_huge(deeds, (Size) max * sizeof(LeaseDeed));
	max_deeds = max;
}

LeaseDeed *
deed_add(LeaseRef ref, LeaseAction action)
{
	LeaseDeed  *deed;

	/* The lease exists by now, and would not be undone. */
	if (unlikely(ndeeds >= max_deeds))
		elog(PANIC, "no memory was reserved to record a lease");
	deed = &deeds[ndeeds++];
	deed->ref = ref;
	deed->action = action;
	deed->outcome = LEASE_ACKED;
	deed->moved = false;
	deed->ended = false;
	deed->subid = GetCurrentSubTransactionId();
	return deed;
}

LeaseDeed *
deed_latest(LeaseRef ref)
{
	for (int i = ndeeds - 1; i >= 0; i--)
	{
		if (deeds[i].ref == ref)
			return &deeds[i];
	}
	return NULL;
}

bool
deed_forget(LeaseRef ref)
{
	LeaseDeed  *deed = deed_latest(ref);

	if (deed == NULL)
		return false;
	memmove(deed, deed + 1, (deeds + ndeeds - deed - 1) * sizeof(LeaseDeed));
	ndeeds--;
	return true;
}

int
deeds_count(void)
{
	return ndeeds;
}

LeaseDeed *
deed_get(int i)
{
	Assert(i >= 0 && i < ndeeds);
	return &deeds[i];
}

void
deeds_truncate(int n)
{
	Assert(n <= ndeeds);
	ndeeds = n;
}

int
deeds_of_subtransaction(SubTransactionId subid)
{
	int			first = ndeeds;

	while (first > 0 && deeds[first - 1].subid >= subid)
		first--;
	return first;
}

void
deeds_to_parent(SubTransactionId subid, SubTransactionId parent)
{
	for (int i = deeds_of_subtransaction(subid); i < ndeeds; i++)
		deeds[i].subid = parent;
}
