EXTENSION = queue
DATA = queue--1.0.sql
PGFILEDESC = "queue - message queues and a transactional outbox"

MODULE_big = queue
OBJS = src/queue.o src/guc.o src/shmem.o src/catalog.o src/segment.o src/segment_table.o src/room.o src/constrained.o src/frontier.o \
	src/lease.o src/lease_search.o src/receipt.o src/place.o src/guard.o src/wake.o src/identity.o src/duration.o \
	src/send.o src/claim.o src/receive.o src/settle.o src/deferred.o src/dead_letter.o src/reclaim.o \
	src/administer.o src/object.o src/owner.o src/statistics.o src/launcher.o src/maintenance.o \
	src/cleanup.o src/problem.o src/worker_transaction.o src/ddl.o \
	src/relay.o src/relay_slot.o src/relay_option.o src/relay_admin.o src/relay_accept.o \
	src/relay_anchor.o src/relay_suspicion.o src/relay_session.o src/relay_view.o \
	src/sinks/sql.o src/sinks/text.o

REGRESS := $(sort $(patsubst sql/%.sql,%,$(wildcard sql/*.sql)))
ISOLATION := $(sort $(patsubst test/specs/%.spec,%,$(wildcard test/specs/*.spec)))
TAP_TESTS = 1
PROVE_TESTS := $(sort $(wildcard test/t/*.pl))
PROVE_FLAGS += -I ./test/perl

# The library must be preloaded, so "make installcheck" starts its own server.
TEMP_SERVER_OPTS = --temp-config=./test/queue.conf --encoding=UTF8 --no-locale --load-extension=$(EXTENSION)
REGRESS_OPTS = --temp-instance=./tmp_regress $(TEMP_SERVER_OPTS)
ISOLATION_OPTS = --inputdir=test --temp-instance=./tmp_isolation $(TEMP_SERVER_OPTS)

EXTRA_CLEAN = tmp_regress tmp_isolation tmp_check

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

$(OBJS): $(wildcard src/*.h)

# The relays' sinks: one small library each, built where its client library is found.
-include src/sinks/Makefile.inc
