EXTENSION = queue
DATA = queue--1.0.sql
PGFILEDESC = "queue - message queues and a transactional outbox"

MODULE_big = queue
OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c src/engine/*.c src/sql/*.c src/workers/*.c src/relay/*.c))) \
	src/sinks/http_options.o src/sinks/sql.o src/sinks/sql_procedure.o src/sinks/template.o src/sinks/text.o

# Only what is marked PGDLLEXPORT is seen from outside, as PostgreSQL itself has
# it from 16 on.
PG_CFLAGS = -fvisibility=hidden
PG_CPPFLAGS = -Isrc '-DPGDLLEXPORT=__attribute__((visibility("default")))'

REGRESS := $(sort $(patsubst sql/%.sql,%,$(wildcard sql/*.sql)))
ISOLATION := $(sort $(patsubst test/specs/%.spec,%,$(wildcard test/specs/*.spec)))
# Races need a library that can be stopped in the middle: see src/stop_point.h.
ifeq ($(findstring -DQUEUE_STOP_POINTS,$(COPT)),)
ISOLATION := $(filter-out race-%,$(ISOLATION))
endif
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

HEADERS := $(wildcard src/*.h src/*/*.h src/*/*/*.h)
$(OBJS): $(HEADERS)

# The relays' sinks: one small library each, built where its client library is found.
-include src/sinks/Makefile.inc
