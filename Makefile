# Common tasks. `make` lists them.
.DEFAULT_GOAL := help
.PHONY: help start dev migrate-up migrate-down test torture fmt lint deny bench load-test docs clients ci clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

start: ## Start the server (release build); it uses SQLite in ./data unless DATABASE_URL is set
	cargo run --release -- serve

dev: ## Start the server (development build) and restart it when a source file changes
	scripts/dev

migrate-up: ## Apply the missing migrations
	cargo run --release -- migrate up

migrate-down: ## Revert the newest migration; data that only it can hold is lost
	cargo run --release -- migrate down --yes

test: ## Run every test, after installing or fetching what is missing
	scripts/test

torture: ## Kill, stop, starve and damage servers for a long time (TORTURE_ROUNDS=300)
	TORTURE_ROUNDS=$${TORTURE_ROUNDS:-300} scripts/test --test it torture:: -- --nocapture --test-threads 2

fmt: ## Format the code
	cargo fmt

lint: ## Check formatting, and run clippy with warnings denied
	scripts/lint

deny: ## Check dependencies against deny.toml (cargo install cargo-deny; uses the network)
	cargo deny check bans licenses sources
	cargo deny check advisories

bench: ## Run the micro-benchmarks (`cargo build --release`, then target/release/hookgate-bench measures a server)
	cargo bench

load-test: ## Run load_test.js with k6 against a release build, on SQLite and on PostgreSQL
	cargo build --release
	tests/load/run "$${CARGO_TARGET_DIR:-target}/release/hookgate"

docs: ## Write the generated documents: .env.example, docs/configuration.md, docs/errors.md, docs/metrics.md
	UPDATE_DOCS=1 cargo test --test tidy

clients: ## Generate the clients from the OpenAPI document: clients/python, clients/typescript, clients/postman.json
	clients/generate

ci: ## Run everything that a change must pass
	.ci/run

clean: ## Remove build output and fetched programs
	cargo clean
