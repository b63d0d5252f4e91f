# clawd: see `make help`.  Everything that is built lands in build/.

SHELL = /bin/bash

NGINX ?= /usr/sbin/nginx
JOBS ?= 2
FUZZ_SECONDS ?= 30
DESTDIR ?=
MODULES_DIR ?= /usr/lib/nginx/modules
CONF_DIR ?= /etc/nginx
T ?= t

MODULE = build/dynamic/ngx_http_clawd_module.so
PROVE = tools/prove.pl

NGX_SRC = /usr/share/nginx/src/src
INCS = -Ibuild/dynamic -Isrc $(addprefix -I,$(wildcard src/*/)) \
       -isystem $(NGX_SRC)/core -isystem $(NGX_SRC)/event \
       -isystem $(NGX_SRC)/event/modules -isystem $(NGX_SRC)/event/quic \
       -isystem $(NGX_SRC)/os/unix
HDRS = $(wildcard src/*.h src/*/*.h t/unit/*.h fuzz/*.h)
STRICT = -std=gnu11 -Wall -Wextra -Wno-unused-parameter -Werror

SANITIZE = -g -O1 -fno-omit-frame-pointer -fsanitize=address,undefined \
           -fno-sanitize-recover=all

# The pure files: they need NGINX's headers, and nothing of it at link time.
# Every unit and fuzz target gets them.  A target that needs others, pure or
# with its own doubles for what they call, names them in its head comment, one
# line for each: " * link: src/metrics/ngx_http_clawd_text.c".
PURE = $(wildcard src/wire/*.c)
linked = $(patsubst src/%.c,build/$(1)/obj/%.o, \
           $(shell sed -n 's/^ \* link: *//p' $(2)))

UNIT_BIN = $(patsubst t/unit/%.c,build/unit/%,$(wildcard t/unit/test_*.c))
UNIT_OBJ = $(patsubst src/%.c,build/unit/obj/%.o,$(PURE))
FUZZ_BIN = $(patsubst fuzz/%.c,build/fuzz/%,$(wildcard fuzz/*.c))
FUZZ_OBJ = $(patsubst src/%.c,build/fuzz/obj/%.o,$(PURE))

.DEFAULT_GOAL = build
.SECONDARY:
.SECONDEXPANSION:


.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9.-]+:.*## / \
	    { printf "  make %-13s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  T=FILE... picks Test::Nginx files for quick, asan and test-1.26"


.PHONY: build
build: deps-build ## the dynamic module for the packaged NGINX
	@tools/build.sh dynamic
	@echo "built $(MODULE)"


.PHONY: run
run: build ## the example configuration in front of a real model
	@tools/run.sh


.PHONY: check
check: deps-check ## compilers, linters, style, and the README against the code
	@tools/check.sh


.PHONY: test
test: ## every suite, with its time and count (at most 45 minutes)
	@tools/test-all.sh


.PHONY: quick
quick: unit t ## the units and t/ on the packaged NGINX (at most 3 minutes)


.PHONY: unit
unit: deps-test ## the cmocka units, under ASAN and UBSAN
	@tools/build.sh dynamic
	@$(MAKE) -s -j$(JOBS) unit-build
	@tools/unit.sh $(UNIT_BIN)

.PHONY: unit-build
unit-build: $(UNIT_BIN)

build/unit/obj/%.o: src/%.c $(HDRS)
	@mkdir -p $(@D)
	$(CC) $(STRICT) $(SANITIZE) $(INCS) -c -o $@ $<

# The string assertions of cmocka 2 want char where NGINX has u_char.

build/unit/test_%: t/unit/test_%.c $(UNIT_OBJ) \
                   $$(call linked,unit,t/unit/test_$$*.c) $(HDRS)
	@mkdir -p $(@D)
	$(CC) $(STRICT) -Wno-pointer-sign $(SANITIZE) $(INCS) -It/unit -o $@ $< \
	    $(sort $(filter %.o,$^)) -lcmocka -ljansson -lcrypto -lz


.PHONY: t
t: deps-test ## t/ on the packaged NGINX, dynamic module
	@tools/build.sh dynamic
	@TEST_NGINX_BINARY=$(NGINX) TEST_NGINX_LOAD_MODULES=$(CURDIR)/$(MODULE) \
	    $(PROVE) t $(JOBS) $(T)


.PHONY: asan
asan: deps-source deps-test ## t/ on an NGINX under ASAN and UBSAN
	@tools/build.sh asan
	@TEST_NGINX_BINARY=$(CURDIR)/build/asan/nginx $(PROVE) asan $(JOBS) $(T)


.PHONY: hostile
hostile: deps-source deps-test ## hostile requests and answers under ASAN
	@tools/hostile.sh


.PHONY: fault
fault: deps-test build ## quotas under kills, reloads and outages of Redis
	@tools/fault.sh


.PHONY: static
static: deps-source deps-test ## t/ on an NGINX with the module linked in
	@tools/build.sh static
	@TEST_NGINX_BINARY=$(CURDIR)/build/static/nginx \
	    $(PROVE) static $(JOBS) $(T)


.PHONY: test-1.26
test-1.26: deps-source deps-test ## t/ on NGINX 1.26.3 of Debian 13
	@tools/build.sh 1.26
	@TEST_NGINX_BINARY=$(CURDIR)/build/1.26/nginx \
	    TEST_NGINX_LOAD_MODULES=$(CURDIR)/build/1.26/ngx_http_clawd_module.so \
	    $(PROVE) test-1.26 $(JOBS) $(T)


.PHONY: fuzz
fuzz: deps-fuzz ## each fuzz target for FUZZ_SECONDS (30)
	@tools/build.sh dynamic
	@$(MAKE) -s -j$(JOBS) fuzz-build
	@tools/fuzz.sh $(FUZZ_SECONDS) $(FUZZ_BIN)

.PHONY: fuzz-build
fuzz-build: $(FUZZ_BIN)

build/fuzz/obj/%.o: src/%.c $(HDRS)
	@mkdir -p $(@D)
	clang $(STRICT) $(SANITIZE) -fsanitize=fuzzer-no-link $(INCS) -c -o $@ $<

build/fuzz/%: fuzz/%.c $(FUZZ_OBJ) $$(call linked,fuzz,fuzz/$$*.c) $(HDRS)
	@mkdir -p $(@D)
	clang $(STRICT) $(SANITIZE) -fsanitize=fuzzer $(INCS) -Ifuzz -o $@ $< \
	    $(sort $(filter %.o,$^)) -ljansson -lcrypto -lz


.PHONY: e2e
e2e: build ## real clients against real models
	@t/e2e/run.sh


.PHONY: stack
stack: deps-source build ## image, compose, alerts and dashboards
	@t/stack/run.sh


.PHONY: dashboards
dashboards: ## writes grafana-dashboards/*.json again, after a change there
	@venv=$$(tools/stack-venv.sh) \
	    && "$$venv/bin/python" grafana-dashboards/generate.py


.PHONY: image
image: ## the container image, by buildah where there is no Docker
	@tools/image.sh


.PHONY: bench
bench: build ## clawd_pass against plain proxy_pass on this machine
	@bench/run


.PHONY: install
install: build ## the module and its include files into the packaged NGINX
	install -D -m 644 $(MODULE) \
	    $(DESTDIR)$(MODULES_DIR)/ngx_http_clawd_module.so
	install -D -m 644 -t $(DESTDIR)$(CONF_DIR) clawd_proxy.conf clawd_log.conf


.PHONY: module
module: deps-module ## the .so for another NGINX: NGINX_SRC=its source tree
	@NGINX_SRC="$(NGINX_SRC)" tools/build.sh module
	@echo "built build/module/ngx_http_clawd_module.so"


.PHONY: print-config
print-config: ## the ten lines for an nginx.conf that exists
	@cat tools/ten-lines.conf


.PHONY: clean
clean: ## removes build/ and what tests left behind
	rm -rf build t/servroot t/servroot_*


.PHONY: deps-module deps-build deps-test deps-check deps-fuzz deps-source
deps-module deps-build deps-test deps-check deps-fuzz deps-source:
	@tools/deps.sh $(@:deps-%=%)
