# What one does with this repository. `make` lists it.
.DEFAULT_GOAL := help
.PHONY: help run test torture lint deny bench load-test clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

run: ## Start the server on SQLite, data in ./data
	cargo run --release -- serve

test: ## Run every test (PostgreSQL's programs must be installed)
	cargo test

torture: ## Kill, stop, starve and damage servers at length: TORTURE_ROUNDS, 300 unless set
	TORTURE_ROUNDS=$${TORTURE_ROUNDS:-300} cargo test --test it torture:: -- --nocapture --test-threads 2

lint: ## Formatting and clippy, warnings denied
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings

deny: ## Check dependencies by deny.toml (cargo install cargo-deny); advisories need the network
	cargo deny check bans licenses sources
	cargo deny check advisories

bench: ## Run the micro-benchmarks (`cargo build --release`, then target/release/hookgate-bench measures a server)
	cargo bench

load-test: ## Run load_test.js with k6 against a release build, on SQLite and on PostgreSQL
	cargo build --release
	bash tests/load/run target/release/hookgate

clean: ## Remove what was built
	cargo clean
