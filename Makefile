# What a person types daily. `make help` lists it.

CARGO ?= cargo
# Where cargo builds.
TARGET = $(abspath $(or $(CARGO_TARGET_DIR),target))
# The tests drive the real program; they look for it here.
export GATEWAY_UNDER_TEST ?= $(TARGET)/debug/weaver-gateway
RELEASE = $(TARGET)/release/weaver-gateway

.PHONY: help run test setup fmt lint unit gateway e2e doc bench bench-hit bench-pool bench-purge bench-redis bench-registry soak soak-pool soak-cache soak-writes fuzz bench-smoke conformance conformance-check conformance-update release clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

run: ## build and start the gateway with a sample upstream, and print what to try; other ports: make run ARGS="--listen 127.0.0.1:9000"
	@echo "building the gateway; the first time this takes some minutes"
	@$(CARGO) build --locked --profile quick -p weaver-gateway
	@exec $(TARGET)/quick/weaver-gateway demo $(ARGS)

test: setup fmt lint doc unit e2e conformance-check bench-smoke ## everything that must pass

setup: ## install what the tests need
	@tests/setup

fmt:
	$(CARGO) fmt --all --check

lint:
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

doc:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked --quiet

unit: ## unit, property and doc tests of every crate
	$(CARGO) test --locked --workspace --exclude weaver-tests

gateway:
	$(CARGO) build --locked -p weaver-gateway

e2e: gateway ## the gateway as a process, with real servers around it
	$(CARGO) test --locked -p weaver-tests

conformance-check: gateway
	$(CARGO) run --locked --quiet -p weaver-tests --bin conformance -- check

conformance: setup gateway ## the public cache-tests suite against Weaver, three ways, and its peers
	tests/setup peers
	$(CARGO) run --locked --quiet -p weaver-tests --bin conformance -- table

conformance-update: gateway ## write down what the suite says now as what is expected
	$(CARGO) run --locked --quiet -p weaver-tests --bin conformance -- update

bench-smoke: gateway
	$(CARGO) run --locked --quiet -p weaver-tests --bin perf -- smoke

bench: setup release ## the performance programs, with their targets; prints figures
	GATEWAY_UNDER_TEST=$(RELEASE) $(CARGO) run --locked --release -p weaver-tests --bin perf -- all

bench-hit: setup release ## a 1 KB hit beside HAProxy, nginx and a bare Actix handler
	GATEWAY_UNDER_TEST=$(RELEASE) $(CARGO) run --locked --release -p weaver-tests --bin perf -- hit

bench-redis: setup release ## hits in the Redis tier; prints what authenticating the record costs
	GATEWAY_UNDER_TEST=$(RELEASE) $(CARGO) run --locked --release -p weaver-tests --bin perf -- redis-hit

bench-purge: setup release ## ten nodes under a thousand purges a second; prints when a purge has reached all
	GATEWAY_UNDER_TEST=$(RELEASE) $(CARGO) run --locked --release -p weaver-tests --bin perf -- purge

bench-registry: setup ## the agent registry against one round trip for each agent
	$(CARGO) run --locked --release -p weaver-tests --bin perf -- registry

bench-pool: setup ## the Redis pool beside bb8, deadpool, redis-rs and bare fred; prints the table
	$(CARGO) build --locked --release -p weaver-tests --bin perf --features pool-peers
	taskset -c 1 $(TARGET)/release/perf pool

soak: setup soak-pool soak-cache soak-writes ## the random tests for long: faults of Redis for the pool, purges, faults and writes for the cache

soak-pool: ## ten thousand random schedules of faults on the Redis pool (SOAK_SCHEDULES, SOAK_SEED)
	SOAK_SCHEDULES=$${SOAK_SCHEDULES:-10000} $(CARGO) test --locked --profile quick -p weaver-pool --test faults schedules -- --nocapture

soak-cache: gateway ## random purges, faults and restarts on three nodes (MODEL_SCHEDULES, MODEL_STEPS, MODEL_SEED)
	MODEL_SCHEDULES=$${MODEL_SCHEDULES:-60} MODEL_STEPS=$${MODEL_STEPS:-200} $(CARGO) test --locked -p weaver-tests --test model -- --nocapture

soak-writes: release ## 2000 writes a second to URLs of their own for five minutes, then a new node (WRITES_SECONDS, WRITES_RATE, WRITES_JOURNAL)
	GATEWAY_UNDER_TEST=$(RELEASE) WRITES_SECONDS=$${WRITES_SECONDS:-300} WRITES_RATE=$${WRITES_RATE:-2000} \
	WRITES_JOURNAL=$${WRITES_JOURNAL:-100000} $(CARGO) test --locked -p weaver-tests --test e2e writes::a_new_node -- --nocapture

# Each fuzz test runs for a second in `make test`. Here each runs for FUZZ_SECONDS; guided by coverage where
# cargo-bolero is installed (`cargo install cargo-bolero`), by chance elsewhere.
fuzz: ## the fuzz tests, each for FUZZ_SECONDS (60)
	tests/fuzz/run $${FUZZ_SECONDS:-60}

release:
	$(CARGO) build --locked --release -p weaver-gateway

clean:
	$(CARGO) clean
