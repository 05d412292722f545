# Every verb a person needs. `make` lists them.

CARGO ?= cargo
RUNNER = $(CARGO) run --quiet --package tests-qemu --

.PHONY: help demo test check image tools clean

help:
	@echo "make demo    two Xen hosts in QEMU, a running guest crosses from one to the other, in three stages"
	@echo "make test    everything that must pass: make check, then migrations on real Xen"
	@echo "make check   format, clippy, host tests, gates of the image"
	@echo "make image   the agents' unikernel image: target/image/tsmc-agent.elf"
	@echo "make tools   the programs that run in dom0 and in the guest: target/static"
	@echo "make clean   remove all that was built, and what was downloaded"

demo:
	$(RUNNER) migrate --memory 256 --dirty-mb 32 --dirty-rate 2000 --report target/demo/report.json

test: check
	$(RUNNER) test

check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --quiet --workspace --all-targets -- -D warnings
	$(CARGO) test --quiet --workspace --exclude boot
	$(MAKE) --no-print-directory image
	$(RUNNER) image-gates

image:
	sh boot/build-image.sh

tools:
	$(RUNNER) prepare

clean:
	$(CARGO) clean
