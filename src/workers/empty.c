/*
 * empty.c
 *		Emptying tables as a whole, whatever snapshots there are.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relation.h"
#include "catalog/index.h"
#include "commands/tablecmds.h"
#include "compat.h"
#include "engine/owner.h"
#include "pgstat.h"
#include "storage/lmgr.h"
#include "storage/predicate.h"
#include "utils/relcache.h"
#include "workers/empty.h"

/*
 * Give a table new, empty files, its indexes and its toast table with it.  An
 * index is built without its expressions: there is nothing to index, and the
 * planner could evaluate parts of them for ever.
 */
static void
set_new_files(Relation rel)
{
	List	   *indexes = RelationGetIndexList(rel);
	ListCell   *lc;

	Assert(CheckRelationLockedByMe(rel, AccessExclusiveLock, false));
	RELATION_SET_NEW_FILE(rel);
	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessExclusiveLock);

		RELATION_SET_NEW_FILE(index);
		index_build(rel, index, BuildDummyIndexInfo(index), true, false);
		index_close(index, NoLock);
	}
	list_free(indexes);
	if (OidIsValid(rel->rd_rel->reltoastrelid))
	{
		Relation	toast = relation_open(rel->rd_rel->reltoastrelid, AccessExclusiveLock);

		set_new_files(toast);
		relation_close(toast, NoLock);
	}
}

void
empty_table(Relation rel)
{
	OwnerContext rights;

	owner_begin(rel->rd_rel->relowner, &rights);
	CheckTableNotInUse(rel, "truncate");
	CheckTableForSerializableConflictIn(rel);
	set_new_files(rel);
	pgstat_count_truncate(rel);
	owner_end(&rights);
}
