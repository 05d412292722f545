#!/bin/sh
# Builds the unikernel image and puts it, stripped, at target/image/tsmc-agent.elf. Run by `make image`.
# A target is named so that the flags below do not reach build scripts and procedural macros.
set -eu
cd "$(dirname "$0")/.."
out=${1:-target/image}
target=x86_64-unknown-linux-gnu
features=+sse3,+ssse3,+sse4.1,+sse4.2
CARGO_TARGET_DIR=$out RUSTFLAGS="-C relocation-model=static -C no-redzone=yes -C target-feature=$features" \
    cargo build --quiet --package boot --release --target $target
cp "$out/$target/release/tsmc-agent" "$out/tsmc-agent.debug"
strip --strip-all -o "$out/tsmc-agent.elf" "$out/tsmc-agent.debug"
