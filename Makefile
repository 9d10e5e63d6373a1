# `make` names what there is. Everything works without a network once the dependencies have been fetched.

CARGO_FLAGS ?=
NEXTEST_PROFILE ?= default
WEB := dispatch-api/web

# The dashboard is built where Node is there, and nowhere demanded: without it the server shows a page that says how.
HAVE_NODE := $(shell scripts/need --check node && echo yes)
HAVE_NEXTEST := $(shell cargo nextest --version >/dev/null 2>&1 && echo yes)
HAVE_DENY := $(shell cargo deny --version >/dev/null 2>&1 && echo yes)

WEB_MANIFESTS := $(WEB)/package-lock.json $(wildcard $(WEB)/package.json $(WEB)/*/package.json)
WEB_SOURCES := $(shell find $(WEB)/dashboard $(WEB)/shared $(WEB)/*.ts $(WEB)/*.json -type f -not -path '*/node_modules/*' 2>/dev/null)
WEB_INSTALLED := $(WEB)/node_modules/.package-lock.json
WEB_BUILT := $(WEB)/dist/index.html

# In this order, whatever -j says.
.NOTPARALLEL:

.PHONY: help demo web test test-web test-doc test-fault test-rust power-cut tools lint ci bench api-check fuzz paho

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

# The debug profile: from cold it costs two thirds of the processor time of a release build, before the latter links with
# LTO; twelve vehicles ask little of it, and the tests use most of it again.
demo: web ## build everything, then run a server with twelve vehicles and throw-away data
	@scripts/need cargo cc
	cargo build $(CARGO_FLAGS)
	exec target/debug/waypost demo $(DEMO_FLAGS)

ifeq ($(HAVE_NODE),yes)
web: $(WEB_BUILT) ## build the dashboard that the server embeds
else
web:
	@scripts/need node || true
endif

$(WEB_INSTALLED): $(WEB_MANIFESTS)
	cd $(WEB) && npm ci --no-audit --no-fund
	@touch $@

$(WEB_BUILT): $(WEB_INSTALLED) $(WEB_SOURCES)
	cd $(WEB) && npm run build
	@touch $@

# In the order in which a failure comes soonest. The whole suite is last, so that its summary closes the output, and so
# that target/debug/waypost is the binary without the deliberate faults.
test: tools web test-web test-doc test-fault test-rust ## everything that is tested

tools:
	@scripts/need cargo cc chromium mosquitto mosquitto-clients paho-mqtt

test-web:
ifeq ($(HAVE_NODE),yes)
test-web: $(WEB_INSTALLED) ## the unit tests of the web app
	cd $(WEB) && npm test
endif

test-doc: ## the examples in the documentation
	cargo test $(CARGO_FLAGS) --workspace --doc --quiet

# Shows that the tests which guard a promise notice when it is broken. The same target folder: only the crates that have
# the feature, and what stands on them, are compiled a second time.
FAULT := --package waypost --features fault-injection --test system
# The client that the whole-system tests start and kill; choosing a test by name does not build it.
CHATTER := cargo build $(CARGO_FLAGS) --package waypost --example chatter
ifeq ($(HAVE_NEXTEST),yes)
test-fault: web ## tests that break a promise on purpose and must notice
	$(CHATTER) --features fault-injection
	cargo nextest run $(CARGO_FLAGS) --profile $(NEXTEST_PROFILE) $(FAULT) -E 'test(/(^|::)fault/)'

test-rust: web ## the Rust tests, the whole-system ones included
	$(CHATTER)
	cargo nextest run $(CARGO_FLAGS) --profile $(NEXTEST_PROFILE) --workspace
else
test-fault: web
	$(CHATTER) --features fault-injection
	cargo test $(CARGO_FLAGS) $(FAULT) -- fault

test-rust: web
	$(CHATTER)
	cargo test $(CARGO_FLAGS) --workspace --all-targets
endif

lint: web ## formatting, clippy, licences and sources, types of the web app
	cargo fmt --all --check
	cargo clippy $(CARGO_FLAGS) --workspace --all-targets -- -D warnings
	cargo clippy $(CARGO_FLAGS) --package waypost --features fault-injection -- -D warnings
ifeq ($(HAVE_DENY),yes)
	cargo deny --offline check licenses bans sources
else
	@echo 'cargo-deny is missing, so licences, bans and sources are not checked: cargo install cargo-deny'
endif
ifeq ($(HAVE_NODE),yes)
	cd $(WEB) && npm run check
endif

# Takes root and an ext4 in a file; where those are not to be had it says so and ends with status 77.
power-cut: ## cuts the power of every store and looks what is left, 25 times each (POWER_CUT_FLAGS)
	@scripts/need cargo cc
	tests/power-cut/run $(POWER_CUT_FLAGS)

api-check: ## asks a server for what its OpenAPI document says and does not say, as every role
	cargo build $(CARGO_FLAGS)
	scripts/schemathesis

paho: ## the interoperability suite of Eclipse Paho (SUITE=…/paho.mqtt.testing/interoperability)
	cargo build $(CARGO_FLAGS)
	scripts/paho "$(SUITE)"

ci: ## what CI runs: lint and test, with the lock files as they stand
	bash .ci/run

bench: ## the tables of BENCHMARKS.md
	@scripts/need cargo cc
	cargo test $(CARGO_FLAGS) --package waypost-proto --test wire sizes -- --nocapture --test-threads 1
	cargo test $(CARGO_FLAGS) --package waypost --bin waypost sizes -- --nocapture --test-threads 1

FUZZ_SECONDS ?= 600
FUZZ_TARGETS := $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs)))

# cargo-fuzz asks for flags that are not stable; what is found new stays out of the kept corpus.
fuzz: ## every fuzz target, ten minutes each (FUZZ_SECONDS)
	@cargo fuzz --version >/dev/null 2>&1 || { echo 'cargo-fuzz is missing: cargo install cargo-fuzz' >&2; exit 1; }
	set -e; for target in $(FUZZ_TARGETS); do \
		mkdir -p fuzz/target/found/$$target; \
		RUSTC_BOOTSTRAP=1 cargo fuzz run $$target fuzz/target/found/$$target fuzz/corpus/$$target \
			-- -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -timeout=10; \
	done
