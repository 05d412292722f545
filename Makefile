# Every verb a person needs. `make` lists them.

CARGO ?= cargo
RUNNER = $(CARGO) run --quiet --package tests-qemu --

.PHONY: help demo test test-faults check fuzz soak bench bench-full image tools clean prerequisites

help:
	@echo "make demo          two Xen hosts in QEMU, a running guest crosses from one to the other, in three stages"
	@echo "                   XEN=stock: on Debian's own hypervisor, by pre-copy; XEN=stock DEBIAN=13: on Debian 13"
	@echo "make test          everything that must pass: make check, half of make fuzz, migrations on real Xen with a sample of the faults"
	@echo "make test-faults   every fault in every phase, on real Xen (docs/reliability.md); each permission of the agent; hosts of other kinds"
	@echo "make check         format, clippy, host tests, gates of the images"
	@echo "make fuzz          every parser of what others wrote, SECONDS=60 each, two at a time"
	@echo "make soak          10,000 random migrations with random faults, in the simulator"
	@echo "make bench         our migration beside Xen's own, in under 45 minutes: target/bench/report.html; make bench-full: all of it"
	@echo "make image         the unikernel images: target/image/tsmc-agent.elf, and tsmc-selftest.elf for the tests"
	@echo "make tools         the programs that run in dom0 and in the guest: target/static"
	@echo "make clean         remove all that was built, and what was downloaded"

# XEN=stock boots Debian's own hypervisor, where dom0 lends the agents each guest; with DEBIAN=13 all of that release's host.
XEN = full
DEBIAN = 12
demo: prerequisites
	$(RUNNER) migrate --memory 256 --dirty-mb 32 --dirty-rate 2000 --report target/demo/report.json --xen $(XEN)$(filter 13,$(DEBIAN))

# Rust itself comes from rustup, by rust-toolchain.toml; it needs a linker. The runner installs all else.
prerequisites:
	@command -v cc >/dev/null || { apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev; }

test: check
	$(MAKE) --no-print-directory fuzz SECONDS=30
	$(RUNNER) test

test-faults: prerequisites
	failed=; for group in hosts faults policy; do $(RUNNER) test --group $$group || failed="$$failed $$group"; done; \
	test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

# SOAK_RUNS says how many, SOAK_SEED the first seed.
soak: prerequisites
	$(CARGO) test --quiet --release --package agent --test recovery -- --ignored --nocapture soak

# Both write target/bench/report.html; the short one begins nothing that would end after BENCH_MINUTES.
BENCH_MINUTES = 41
bench: bench-path
	$(RUNNER) bench --minutes $(BENCH_MINUTES)

bench-full: bench-path
	$(RUNNER) bench --runs 5

# The path without Xen; then what of it needs the cipher again, as the image runs it on a host without AVX.
.PHONY: bench-path
bench-path: prerequisites
	$(CARGO) bench --quiet --package agent --features bench
	CRITERION_HOME=$(CURDIR)/target/criterion CARGO_TARGET_DIR=target/portable-ghash RUSTFLAGS='--cfg polyval_backend="soft"' \
		$(CARGO) bench --quiet --package agent --features bench --bench host_path -- portable_ghash

check: prerequisites
	$(RUNNER) prepare --source-only
	$(CARGO) fmt --all --check
	$(CARGO) clippy --quiet --workspace --exclude boot --all-targets --features agent/bench -- -D warnings
	# By itself: beside programs for dom0 its dependencies would be built with their std features.
	$(CARGO) clippy --quiet --package boot -- -D warnings
	$(CARGO) test --quiet --workspace --exclude boot
	$(MAKE) --no-print-directory image
	$(RUNNER) image-gates

# What it finds is below fuzz/artifacts; inputs worth keeping go into fuzz/seeds.
SECONDS = 60
PARSERS = $(notdir $(basename $(wildcard fuzz/fuzz_targets/*.rs)))
fuzz: prerequisites
	@command -v cargo-fuzz >/dev/null || $(CARGO) install --quiet --locked cargo-fuzz
	@command -v c++ >/dev/null || { apt-get update && apt-get install -y --no-install-recommends g++; }
	$(CARGO) +nightly fuzz build --fuzz-dir fuzz --dev
	mkdir -p $(PARSERS:%=fuzz/corpus/%)
	printf '%s\n' $(PARSERS) | xargs -P 2 -I{} \
		$(CARGO) +nightly fuzz run --fuzz-dir fuzz --dev {} fuzz/corpus/{} fuzz/seeds/{} -- \
		-max_total_time=$(SECONDS) -max_len=8192 -verbosity=0

image: prerequisites
	sh boot/build-image.sh

tools: prerequisites
	$(RUNNER) prepare

clean:
	$(CARGO) clean
