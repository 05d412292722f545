#!/bin/sh
# Builds the unikernel images and puts them, stripped, at target/image: tsmc-agent.elf, which hosts run, and tsmc-selftest.elf, with
# which the testbed tries every part of it. Run by `make image`.
# A target is named so that the flags below do not reach build scripts and procedural macros.
set -eu
cd "$(dirname "$0")/.."
out=${1:-target/image}
target=x86_64-unknown-linux-gnu
features=+sse3,+ssse3,+sse4.1,+sse4.2
CARGO_TARGET_DIR=$out RUSTFLAGS="-C relocation-model=static -C no-redzone=yes -C target-feature=$features" \
    cargo build --quiet --package boot --release --target $target
for image in tsmc-agent tsmc-selftest; do
    cp "$out/$target/release/$image" "$out/$image.debug"
    strip --strip-all -o "$out/$image.elf" "$out/$image.debug"
done
