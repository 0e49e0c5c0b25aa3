# What there is to do in a checkout; `make` alone lists it.
SHELL := bash
.DEFAULT_GOAL := help
GUESTS = $${CARGO_TARGET_DIR:-target}/guests
SERVICES = src/sandbox/wit/config-rc1/config.wit src/sandbox/wit/keyvalue-draft2/keyvalue.wit
.PHONY: help run test soak plugins bindings bench clean host

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1	\2/p' $(MAKEFILE_LIST)

run: host ## build what it needs, run two examples on a daemon of their own, and say how to keep one
	scripts/build-plugins.sh health-report support-operations
	cargo build --locked --bin sandclock
	scripts/demo.sh

test: host plugins ## set up what the tests need (their own PostgreSQL, Redis and mongod too), and check everything
	scripts/check.sh

soak: host ## kill a daemon a thousand times under load (KILLS=N for another number) and check that nothing was lost or ran twice
	scripts/soak.sh

plugins: host ## build the example agents whose sources are newer than their plugins/NAME.wasm
	scripts/build-plugins.sh

bindings: host ## write the bindings in wit/rust/src anew after a change of a WIT file
	cargo build -q --locked --manifest-path scripts/rust-bindings/Cargo.toml --target-dir $(GUESTS)
	$(GUESTS)/debug/rust-bindings agent wit/rust/src/bindings.rs wit/agent.wit
	$(GUESTS)/debug/rust-bindings services wit/rust/src/services.rs $(SERVICES) wit/rust/services.wit

bench: host plugins ## run the benchmarks that README quotes
	scripts/servers.sh run -- cargo bench --locked

clean: ## remove what was built; the guest tool chain in ~/.cache/sandclock stays
	cargo clean
	rm -f plugins/*.wasm
	rm -rf plugins/*/target

host:
	@scripts/setup-host.sh
