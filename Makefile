# What a person types. `make` alone lists it.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
CONFIG ?= config.yaml.example
SECONDS_SHOWN ?= 20
SECONDS_EACH ?= 60
CASES ?= 3000
SECONDS_SOAKED ?= 600
BENCH_ARGS ?=

.PHONY: help run demo test check properties build build-all deb check-deb bench guard guard-record soak fuzz setup

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: ## Serve with config.yaml.example, or with CONFIG=your.yaml
	$(CARGO) run --release --locked --bin cooldown-proxy -- --config $(CONFIG)

demo: ## Show a crowd of clients against a strict API: direct, then through the proxy
	@$(CARGO) run --quiet --locked --bin cooldown-proxy -- demo --seconds $(SECONDS_SHOWN)

test: setup ## Run everything that must hold: check, then all tests
	@.ci/checks
	@.ci/tests

check: setup ## Format, lints, docs, dependencies and their licences
	@.ci/checks

properties: setup ## Try all properties on other cases than `make test`, CASES=n where they do not say how many
	PROPTEST_CASES=$(CASES) $(CARGO) test --locked -p cooldown-pacer
	PROPTEST_CASES=$(CASES) $(CARGO) test --locked -p cooldown-proxy --lib
	PROPTEST_CASES=$(CASES) $(CARGO) test --locked -p cooldown-proxy --test it -- fuzz_corpus

build: ## Build the release binary: target/release/cooldown-proxy
	$(CARGO) build --release --locked --bin cooldown-proxy

build-all: ## Build every target that this machine can build into dist/, and say which were skipped
	@packaging/build-all

deb: ## Build the Debian package of this machine's architecture into dist/; needs cargo-deb
	@packaging/build-deb

check-deb: ## Build the Debian package and check what is in it; says so where that cannot be
	@packaging/check-deb

bench: ## Measure beside other proxies; BENCH_ARGS=--quick for a look, --update to write README and docs
	$(CARGO) bench --locked -p cooldown-bench
	bench/compare/run.py $(BENCH_ARGS)

guard: setup ## Count the instructions of what is done for each request, and compare with what is recorded
	@.ci/guard

guard-record: setup ## The same, and record the counts
	@.ci/guard --record

soak: ## Run for ten minutes, or SECONDS_SOAKED=n, between rude clients and an upstream in trouble; tell what is left behind
	$(CARGO) build --release --locked --bin cooldown-proxy
	bench/soak/run.py --seconds $(SECONDS_SOAKED) --binary $${CARGO_TARGET_DIR:-target}/release/cooldown-proxy

fuzz: ## Fuzz every target for a minute, or for SECONDS_EACH=n; needs cargo-fuzz
	@fuzz/run $(SECONDS_EACH)

setup:
	@.ci/setup
