#!/usr/bin/env bash
# Builds the host program (boot/run) and hands over to it; --help lists the options.
# Standard output belongs to that program: everything here goes to standard error.
set -u

self=$(readlink -f -- "${BASH_SOURCE[0]}")
export HOLDFAST_ROOT=${self%/*}

fail() {
    printf 'run.sh: %s\n' "$1" >&2
    exit 125
}

# rustup installs cargo where a shell that was already open does not look.
command -v cargo >/dev/null || PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
command -v cargo >/dev/null ||
    fail "Rust is missing; install it with:  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"
command -v cc >/dev/null ||
    fail "Rust needs a C linker; install it with:  sudo apt-get install gcc libc6-dev"

program=${CARGO_TARGET_DIR:-$HOLDFAST_ROOT/target}/release/holdfast-run
[ -x "$program" ] || printf 'run.sh: building, which takes a minute the first time\n' >&2
cargo build --quiet --release --manifest-path "$HOLDFAST_ROOT/Cargo.toml" --package holdfast-run </dev/null >&2 ||
    fail "the host program could not be built"
exec "$program" "$@"
