/*
 * lease_end.h
 *		What becomes of leases at the end of a transaction.
 */
#ifndef QUEUE_ENGINE_LEASE_END_H
#define QUEUE_ENGINE_LEASE_END_H

/* Have this backend's transactions finish or undo at their end what they did to leases. */
extern void lease_end_init(void);

/*
 * After COMMIT or ROLLBACK PREPARED: return the leases that a transaction
 * took which was prepared and rolled back.
 */
extern void lease_finish_prepared(void);

#endif							/* QUEUE_ENGINE_LEASE_END_H */
