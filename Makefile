EXTENSION = queue
DATA = queue--1.0.sql
PGFILEDESC = "queue - message queues and a transactional outbox"

MODULE_big = queue
OBJS = src/queue.o src/guc.o src/shmem.o src/catalog.o src/segment.o src/segment_table.o src/room.o src/frontier.o \
	src/lease.o src/wake.o src/identity.o src/duration.o \
	src/send.o src/claim.o src/receive.o src/settle.o src/deferred.o src/dead_letter.o src/reclaim.o \
	src/administer.o src/object.o src/owner.o src/statistics.o src/launcher.o src/maintenance.o src/ddl.o \
	src/relay.o src/relay_slot.o src/relay_option.o src/relay_admin.o src/relay_accept.o src/sinks/sql.o

REGRESS := $(sort $(patsubst sql/%.sql,%,$(wildcard sql/*.sql)))
ISOLATION := $(sort $(patsubst test/specs/%.spec,%,$(wildcard test/specs/*.spec)))
TAP_TESTS = 1
PROVE_TESTS := $(sort $(wildcard test/t/*.pl))
PROVE_FLAGS += -I ./test/perl

# The library must be preloaded, so "make installcheck" starts its own server.
REGRESS_OPTS = --temp-instance=./tmp_regress --temp-config=./test/queue.conf --load-extension=$(EXTENSION)
ISOLATION_OPTS = --inputdir=test --temp-instance=./tmp_isolation --temp-config=./test/queue.conf \
	--load-extension=$(EXTENSION)

EXTRA_CLEAN = tmp_regress tmp_isolation tmp_check

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

$(OBJS): $(wildcard src/*.h)

# The relays' sinks: one small library each, built where its client library is found.
-include src/sinks/Makefile.inc
