# Every target works in a clean clone with Python 3.11 or newer, a C compiler and make.
#
#   make test ARGS='tests/unit -k policy'           a part of the suite
#   make test PYTHON=python3.13 VENV=.venv-3.13     another interpreter, beside the first
#   make test KACORE_DEBUG=1                        with a build switch of setup.py; changing one rebuilds
#   make test PROCESSES=0 ARGS='-x --pdb'           in one process; the default is six, since tests of servers mostly wait
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
PROCESSES ?= 6
TEST_EXTRAS ?= test browser
BIN := $(VENV)/bin
PARALLEL = --numprocesses $(PROCESSES) --dist worksteal
PIP_INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --quiet

# The directory is named beside its files: its own time changes when one is added or deleted. One variant of the
# extension stands in place at a time, and the stamp names the switches it was built with. They go to the build
# only: to kacore itself, KACORE_NAME in the environment is an option.
SOURCES := setup.py pyproject.toml $(wildcard src src/* src/*/* src/*/*/*)
KACORE_OPTIMIZE ?= 1
# Without bytecode each of the processes that tests start would compile kacore, and each that runs tests would rewrite them.
unexport PYTHONDONTWRITEBYTECODE
unexport KACORE_DEBUG KACORE_SANITIZE KACORE_COVERAGE KACORE_PORTABLE KACORE_OPTIMIZE
ASKED = $(foreach s,DEBUG SANITIZE COVERAGE PORTABLE OPTIMIZE,KACORE_$s='$(KACORE_$s)')
is_on = $(if $(filter-out 0,$(KACORE_$(1))),-$(1))
BUILT := build/in-place$(VENV)-O$(KACORE_OPTIMIZE)$(call is_on,DEBUG)$(call is_on,SANITIZE)$(call is_on,COVERAGE)$(call is_on,PORTABLE)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: build-as-wheel elsewhere interpreters matrix tsan tsan-server differential fleet fleet-short site fresh bench-deadlines bench-replay bench-hpack bench-round bench-send help demo build test hosts asan coverage portable soak valgrind lint types dist bench bench-table bench-server bench-parse bench-instructions fuzz cross wheels try-wheels clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 16

# --- the virtual environment, and the build in place ------------------------------------------------------

$(BIN)/python:
	@$(PYTHON) .ci/preflight.py
	$(PYTHON) -m venv $(VENV)

# Lists of requirements stand in pyproject.toml only. With what a build needs in .venv itself, a rebuild does not
# have to make an isolated environment first.
$(VENV)/.for-build: pyproject.toml .ci/requirements.py | $(BIN)/python
	$(BIN)/python .ci/requirements.py build > $@.txt && $(PIP_INSTALL) -r $@.txt && touch $@

$(VENV)/.for-test: $(VENV)/.for-build
	$(BIN)/python .ci/requirements.py $(TEST_EXTRAS) > $@.txt && $(PIP_INSTALL) -r $@.txt && touch $@

$(VENV)/.for-dev: $(VENV)/.for-test
	$(BIN)/python .ci/requirements.py dev > $@.txt && $(PIP_INSTALL) -r $@.txt && touch $@

$(VENV)/.for-bench: $(VENV)/.for-test
	$(BIN)/python .ci/requirements.py bench > $@.txt && $(PIP_INSTALL) -r $@.txt && touch $@

# Editable: the `kacore` command, the metadata, and the first compilation.
$(VENV)/.installed: $(VENV)/.for-build kacore/_version.py
	@mkdir -p build && rm -f kacore/_core.*.so build/in-place.*
	env $(ASKED) PYTHONWARNINGS=ignore $(PIP_INSTALL) --no-build-isolation --no-deps --editable . && touch $(BUILT) $@

# --force: make may have a reason that setuptools cannot see, such as a switch or a deleted file.
$(BUILT): $(SOURCES)
	@rm -f build/in-place$(VENV)*
	env $(ASKED) $(BIN)/python setup.py --quiet build_ext --inplace --force
	@touch $@

build: $(VENV)/.installed $(BUILT)  ## build the extension in place, in .venv

# As wheels have it, for whatever measures it.
build-as-wheel:
	$(MAKE) build KACORE_OPTIMIZE=

demo: build  ## serve the demo on http://127.0.0.1:8000
	$(BIN)/kacore demo

test: build $(VENV)/.for-test  ## run the whole test suite
	$(BIN)/pytest $(PARALLEL) $(ARGS)

interpreters:  ## unpack Debian's Python 3.14 and 3.15 below build/, for make matrix
	.ci/interpreters fetch

matrix:  ## the suite on every Python that .ci/interpreters finds, in part: VERSIONS='3.12 3.14t'; whole at VERSIONS=ends
	.ci/matrix $(VERSIONS)

fresh:  ## the demo and the suite in a minimal Debian, as a newcomer has them (needs root and debootstrap)
	.ci/fresh

# The hosts' own tests of their servers, with kacore's classes in place of theirs. `make test` runs them, too, once they
# are here. Then the adapters' tests in older hosts: the oldest that is taken, and one between; the newest is .venv's.
# Each lives in an environment of its own, with only itself in it, over what .venv has.
HOSTS := uvicorn aiohttp
OLDER := uvicorn==0.30.0 uvicorn==0.40.0 gunicorn==22.0.0 gunicorn==25.3.0 aiohttp==3.10.0 aiohttp==3.12.15
OF_OLDER := not stock and not uvloop and not lost and not replaced and not killed and not reload
PIP := $(BIN)/python -m pip --disable-pip-version-check
SITE = $$($(1)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")

build/hosts/%/.installed: | $(BIN)/python
	$(BIN)/python -m venv --without-pip $(@D)
	echo "import site; site.addsitedir('$(call SITE,$(abspath $(BIN)))')" > $(call SITE,$(@D)/bin)/below.pth
	$(PIP) --python $(@D)/bin/python install --quiet --only-binary :all: --no-deps $* && touch $@

hosts: build $(VENV)/.for-test $(OLDER:%=build/hosts/%/.installed)  ## fetch the sdists of uvicorn and aiohttp, run their own tests on kacore's adapters, and the adapters' in older hosts
	@mkdir -p build/hosts
	set -e; for host in $(HOSTS); do \
	    $(PIP) download --quiet --no-deps --no-binary $$host \
	        --dest build/hosts "$$host==$$($(BIN)/python -c "import $$host; print($$host.__version__)")"; \
	    tar -xzf build/hosts/$$host-*.tar.gz --directory build/hosts; \
	done
	TEST_HOSTS=1 $(BIN)/pytest tests/embed/test_uvicorn_suite.py tests/embed/test_aiohttp_suite.py
	set -e; for older in $(OLDER); do \
	    build/hosts/$$older/bin/python -m pytest --quiet -W ignore::DeprecationWarning -k '$(OF_OLDER)' \
	        tests/embed/test_$${older%%==*}.py; \
	done

# --- other builds of the same, each in a directory of its own and put first on the path --------------------
# PYTHONSAFEPATH keeps the current directory, and with it the build in place, off the path.

BUILD_INTO = find build/$(1) -name '*.py*' -delete 2>/dev/null; \
	env $(2) $(BIN)/python setup.py --quiet build --build-lib build/$(1) --build-temp build/$(1)-objects
USING = PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/build/$(1)

# The sanitizers' runtime must be the first library of the process, and tests/conftest.py passes it on to children
# that run kacore and to no other program. Leaks are looked for in the C tests only: CPython frees little of what it
# holds at exit, and a suppression for its frames would cover ours, which are called from them. Without pymalloc
# every object is a block of its own, with red zones; --capture=sys lets a report through that ends the process.
SANITIZER_OPTIONS = detect_leaks=0:detect_stack_use_after_return=1:strict_string_checks=1:handle_segv=2
RUNTIME = $$($(ASAN_CC) -print-file-name=$(1))
ASAN_CC ?= gcc

asan: $(VENV)/.for-test  ## run the suite (without the browser) under address and undefined sanitizers
	$(call BUILD_INTO,asan,KACORE_SANITIZE=1 CC=$(ASAN_CC))
	env $(call USING,asan) PYTHONMALLOC=malloc CC=$(ASAN_CC) \
	    LD_PRELOAD=$(call RUNTIME,libasan.so):$(call RUNTIME,libubsan.so) \
	    ASAN_OPTIONS=$(SANITIZER_OPTIONS) UBSAN_OPTIONS=print_stacktrace=1 \
	    $(BIN)/python -m pytest $(PARALLEL) -m 'not browser' --capture=sys -o timeout=600 $(ARGS)

# --- for minutes, and with a magnifying glass ------------------------------------------------------------------
# SOAK names the scenes: make soak MINUTES=10 SOAK='--scene tls --scene memory'; HOSTILE those of crowds that mean harm, which
# come after them, on the engine and over transports. With ASAN=1 the servers run the build of `make asan`. valgrind's memcheck sees what no sanitizer does, uninitialised bytes: in the core under failing system
# calls, and in a Python process that serves a few requests of each kind.

MINUTES ?= 3
SOAK ?=
HOSTILE ?= --seconds 5
SOAK_RUN = $(BIN)/python tests/soak/soak.py --minutes $(MINUTES) $(SOAK) && \
	$(BIN)/python tests/soak/hostile.py $(HOSTILE) && $(BIN)/python tests/soak/hostile.py --io transports $(HOSTILE)

soak: build $(VENV)/.for-test  ## thousands of good, slow and broken clients for MINUTES=3, with and without failing system calls
ifdef ASAN
	$(call BUILD_INTO,asan,KACORE_SANITIZE=1 CC=$(ASAN_CC))
	env $(call USING,asan) PYTHONMALLOC=malloc CC=$(ASAN_CC) \
	    LD_PRELOAD=$(call RUNTIME,libasan.so):$(call RUNTIME,libubsan.so) \
	    ASAN_OPTIONS=$(SANITIZER_OPTIONS) UBSAN_OPTIONS=print_stacktrace=1 $(SOAK_RUN)
else
	$(SOAK_RUN)
endif

# FLEET names schemes and servers: make fleet FLEET='--schemes hup nginx --rolls 5'; --docs writes the table of docs/deploy.md.
FLEET ?=

fleet: build $(VENV)/.for-test .venv-bench/.peers  ## servers replaced 20 times in each of 8 ways while clients POST, beside others: what is lost (needs haproxy, nginx)
	$(BIN)/python tests/fleet/fleet.py $(FLEET)

fleet-short: build $(VENV)/.for-test  ## the same for kacore alone, twice each, in half a minute
	$(BIN)/python tests/fleet/fleet.py --servers kacore --rolls 2 --at-once 8

valgrind: build $(VENV)/.for-test  ## memcheck over the C tests and over a short conversation with Python (needs valgrind)
	$(BIN)/python tests/soak/memcheck.py

# Of the C core. For Python code CPython itself has to be built with --with-thread-sanitizer.
tsan: build $(VENV)/.for-test  ## ThreadSanitizer over threads that share the core
	$(BIN)/pytest tests/c/test_c_programs.py -k threads_test $(ARGS)

# The same for the whole server, with a CPython that was built so: two engines and a pool of WSGI threads, asked by clients
# in threads. Reports with a frame of ours fail; what is known and harmless stands in tests/soak/tsan.txt.
TSAN_PYTHON ?= build/interpreters/tsan-3.13/python
TSAN_FLAGS = -fsanitize=thread -O1 -g1 -fwrapv -fPIC -shared -DNDEBUG -std=gnu11 -w -Isrc/python -Isrc/core -Isrc/epoll

tsan-server: build  ## ThreadSanitizer over servers with threads, on TSAN_PYTHON (.ci/interpreters build-tsan 3.13; needs clang)
	@rm -rf build/tsan && mkdir -p build/tsan && cp -r kacore build/tsan/ && rm -f build/tsan/kacore/*.so
	clang $(TSAN_FLAGS) -I$(dir $(TSAN_PYTHON))Include -I$(dir $(TSAN_PYTHON)) build/cython/src/python/_core.c $(wildcard src/python/*.c) $(CORE_C) \
	    -o build/tsan/kacore/_core.so
	PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/build/tsan \
	    TSAN_OPTIONS="suppressions=$(CURDIR)/tests/soak/tsan.txt exitcode=0 history_size=4 log_path=$(CURDIR)/build/tsan/report" \
	    $(TSAN_PYTHON) tests/soak/threads.py --requests 60
	! grep -sl '_core\.so' build/tsan/report.*

coverage: $(VENV)/.installed $(VENV)/.for-test  ## lines of the C core that the suite runs, by file
	find build/coverage-objects -name '*.gcda' -delete 2>/dev/null || true
	$(call BUILD_INTO,coverage,KACORE_COVERAGE=1)
	env $(call USING,coverage) $(BIN)/python -m pytest -m 'not browser' $(ARGS)
	for room in $(sort $(dir $(CORE_C))); do \
	    gcov --no-output --object-directory build/coverage-objects/$$room $$room*.c | grep -A1 "^File 'src/"; \
	done

portable: $(VENV)/.installed $(VENV)/.for-test  ## the build without epoll, as on other systems: all but the server works
	$(call BUILD_INTO,portable,KACORE_PORTABLE=1 KACORE_OPTIMIZE=$(KACORE_OPTIMIZE))
	env $(call USING,portable) KACORE_PORTABLE=1 $(BIN)/python -m pytest $(PARALLEL) $(ARGS)

# The C tests on other processors, emulated, and with musl in place of glibc. Debian: qemu-user, gcc-aarch64-linux-gnu,
# gcc-s390x-linux-gnu, musl-tools, with the kernel's headers beside musl's own. `ARGS='-k sanitized'` is one of two builds.
CROSS ?= aarch64 s390x musl

cross: $(CROSS:%=cross-%)  ## the C tests on aarch64 and s390x (big-endian, no vectors) under qemu, and with musl

cross-%: build $(VENV)/.for-test
	CC='$*-linux-gnu-gcc -static' TEST_EMULATOR=qemu-$* $(BIN)/pytest -o timeout=900 tests/c/test_c_programs.py $(ARGS)

cross-musl: build $(VENV)/.for-test
	@mkdir -p build/kernel-headers
	@ln -sfn /usr/include/linux build/kernel-headers/linux
	@ln -sfn /usr/include/asm-generic build/kernel-headers/asm-generic
	@ln -sfn /usr/include/$$(gcc -print-multiarch)/asm build/kernel-headers/asm
	CC='musl-gcc -static -isystem $(CURDIR)/build/kernel-headers' TEST_EMULATOR= $(BIN)/pytest -o timeout=900 tests/c/test_c_programs.py $(ARGS)

ELSEWHERE := x86_64-freebsd.14.0 aarch64-macos x86_64-macos

elsewhere: $(VENV)/.for-build  ## compile the core for FreeBSD and macOS by zig, with strict warnings; nothing is run
	$(BIN)/python .ci/requirements.py wheels > $(VENV)/.for-wheels.txt && $(PIP_INSTALL) -r $(VENV)/.for-wheels.txt
	mkdir -p build; set -e; for target in $(ELSEWHERE); do for file in $(wildcard src/core/*/*.c); do \
	    $(BIN)/python -m ziglang cc -target $$target -std=gnu11 -O2 -Wall -Wextra -Wconversion -Werror -Isrc/core -c $$file -o build/elsewhere.o; \
	done; done

# --- what a change must pass besides its tests --------------------------------------------------------------
# Strict warnings for the project's own C, with and without assertions, by every compiler that is here; for what Cython
# makes of the .pxi all but -Wconversion, whose noise is Cython's own. What gcc finds only while it optimises is looked for in
# the core as it is installed; everything else is read and not compiled, which takes a fifth of the time.

COMPILERS := $(foreach c,gcc clang,$(if $(shell command -v $c 2>/dev/null),$c))
STRICT := -std=gnu11 -O2 -Wall -Wextra -Werror -Isrc/core -Isrc/epoll -Isrc/python
CORE_C := $(wildcard src/core/*/*.c src/epoll/*.c)
PYTHON_C := $(wildcard src/python/*.c src/python/*.h)
CORE_H := $(filter-out %_lines.h %_room.h,$(wildcard src/core/*.h src/core/*/*.h src/epoll/*.h)) # those are parts of a .c file
PYTHON_H = $$($(BIN)/python -c "import sysconfig; print(sysconfig.get_path('include'))")
HARNESS_C := $(wildcard tests/c/*.c tests/fuzz/*.c benches/*.c docs/examples/*.c)

lint: build $(VENV)/.for-dev  ## style of Python, Cython and shell; strict warnings of the C
	$(BIN)/ruff check .
	PATH="$(abspath $(BIN)):$$PATH" cython-lint src
	$(BIN)/clang-format --dry-run --Werror $(CORE_C) $(PYTHON_C) $(wildcard src/core/*.h src/core/*/*.h src/epoll/*.h) $(wildcard tests/c/*.h tests/fuzz/*.h) $(HARNESS_C)
	bash -n .ci/run .ci/fresh
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	set -e; for file in $(CORE_C); do $(firstword $(COMPILERS) cc) $(STRICT) -Wconversion -c $$file -o /dev/null; done
	set -e; for cc in $(or $(COMPILERS),cc); do \
	    $$cc $(STRICT) -Wconversion -fsyntax-only $(CORE_C); \
	    $$cc $(STRICT) -Wconversion -DKA_DEBUG=1 -fsyntax-only $(CORE_C); \
	    for file in $(CORE_H); do $$cc $(STRICT) -Wconversion -Wno-unused -fsyntax-only -x c $$file; done; \
	    $$cc $(STRICT) -Itests/c -fsyntax-only $(HARNESS_C); \
	    $$cc $(STRICT) -Wconversion -isystem $(PYTHON_H) -fsyntax-only $(filter %.c,$(PYTHON_C)); \
	    $$cc $(STRICT) -isystem $(PYTHON_H) -fsyntax-only build/cython/src/python/_core.c; \
	done

types: build $(VENV)/.for-dev  ## mypy --strict on kacore/, and the stub against the compiled module
	$(BIN)/mypy
	$(BIN)/stubtest --ignore-disjoint-bases --allowlist .ci/stub-allowlist kacore._core

dist: $(VENV)/.for-dev  ## sdist and wheel in dist/, checked: complete, small, repeatable, installable
	$(BIN)/python .ci/dist.py

# The site's sources are copies, so that what one page links to in another is where the repository has it.
SITE := build/site-source

$(VENV)/.for-site: $(VENV)/.for-build
	$(BIN)/python .ci/requirements.py docs > $@.txt && $(PIP_INSTALL) -r $@.txt && touch $@

site: build $(VENV)/.for-site  ## the documentation as a site in build/site; a warning or a link to nowhere is an error
	@rm -rf build/site $(SITE) && mkdir -p $(SITE)
	@cp -r --parents *.md docs deploy benches/README.md benches/results/*.svg $(SITE) && mv $(SITE)/docs/site/*.md $(SITE)/docs/site/*.rst $(SITE)
	$(BIN)/sphinx-build -q -W --keep-going -j auto -b html -c docs/site $(SITE) build/site

# zig compiles for all of them. To run them takes Debian, qemu-user and musl.
wheels: $(VENV)/.for-dev  ## wheels of this interpreter for Linux: glibc and musl, x86_64 and aarch64, into dist/, checked
	$(BIN)/python .ci/requirements.py wheels > $(VENV)/.for-wheels.txt && $(PIP_INSTALL) -r $(VENV)/.for-wheels.txt
	$(BIN)/python .ci/wheels.py $(ARGS)

try-wheels: $(VENV)/.for-dev  ## run the wheels of dist/ on their processor and libc (needs qemu-user and musl)
	$(BIN)/python .ci/try_wheels.py

# --- benches ------------------------------------------------------------------------------------------------

bench: build-as-wheel $(VENV)/.for-bench  ## micro-benches of parser and table beside their peers
	$(BIN)/pytest benches -o python_files='bench_*.py' -o timeout=0 --benchmark-columns=min,median,rounds $(ARGS)

bench-table: build-as-wheel $(VENV)/.for-bench  ## the connection table beside uvloop, asyncio, heapq and a lazy timer
	$(BIN)/python benches/bench_table.py $(ARGS)

# The servers that kacore is compared with live in an environment of their own. bjoern needs Debian's libev-dev.
.venv-bench/.peers: pyproject.toml .ci/requirements.py $(VENV)/.for-build
	$(BIN)/python -m venv .venv-bench
	$(BIN)/python .ci/requirements.py servers > $@.txt
	while read -r peer; do \
	    .venv-bench/bin/python -m pip --disable-pip-version-check install --quiet "$$peer" < /dev/null > $@.log 2>&1 || \
	        { tail -n 1 $@.log; echo "not installed, and so not measured: $$peer"; }; \
	done < $@.txt
	@touch $@

bench-server: build-as-wheel .venv-bench/.peers  ## the server beside others and nginx: CPU time, memory, latency; table and charts
	.venv-bench/bin/python benches/bench_server.py $(ARGS)

bench-send: $(VENV)/.for-build  ## what each way to send 1 MiB from memory costs the kernel: send, MSG_ZEROCOPY, vmsplice, sendfile
	$(BIN)/python benches/bench_send.py $(ARGS)

bench-round: build-as-wheel $(VENV)/.for-test  ## how long one hostile peer holds the loop: websocket frames, TLS records
	$(BIN)/python -m benches.bench_round $(ARGS)

bench-deadlines: build-as-wheel  ## how late idle connections are closed; a burst of newcomers; one client more than full
	$(BIN)/python benches/bench_deadlines.py $(ARGS)

bench-replay: build-as-wheel  ## a log replayed on a real server, beside its simulation: ARGS='access.log --timeout 75'
	$(BIN)/python benches/bench_replay.py $(ARGS)

# --- the parser's: fuzzing, instruction counts, peers ----------------------------------------------------------

RUNS ?= 500
SECONDS ?= 60

differential: build $(VENV)/.for-test  ## random frames of HTTP/2 to kacore and to nghttpd, RUNS=500 of them (needs nghttpd)
	$(BIN)/python tests/fuzz/differential_h2.py --runs $(RUNS) --seed $$(date +%s)

fuzz:  ## fuzz the C core for SECONDS=60, all targets together (needs clang)
	$(PYTHON) tests/fuzz/run.py --seconds $(SECONDS)

bench-instructions: build  ## compare instruction counts of parser and conversation with those kept (needs valgrind)
	$(BIN)/python benches/bench_instructions.py

bench-hpack: $(VENV)/.for-build  ## HPACK beside libnghttp2's, and in bytes (needs libnghttp2-dev)
	$(BIN)/python benches/bench_hpack.py $(ARGS)

bench-parse: .venv-bench/.peers  ## the parser beside its peers, in .venv-bench (needs libh2o-dev for picohttpparser)
	.venv-bench/bin/pip install --quiet 'setuptools>=77' wheel 'Cython>=3.3,<3.4' httptools gunicorn_h1c aiohttp h11
	.venv-bench/bin/pip install --quiet --no-build-isolation .
	.venv-bench/bin/pip download --quiet --no-binary :all: --no-deps --no-build-isolation -d build/peers httptools gunicorn_h1c
	cd build && ../.venv-bench/bin/python ../benches/bench_parse.py

clean:  ## remove everything that can be made again
	rm -rf build dist *.egg-info .venv .venv-bench kacore/*.so
