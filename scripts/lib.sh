# shellcheck shell=bash
# What the scripts share. Sourced from the repository's root, not run.

# Where cargo builds; also holds the tools that the tests install for themselves and nothing else uses.
TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
TOOLS=$TARGET_DIR/test-tools
PATH=$TOOLS/bin:$PATH
export PATH

say() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
}

fail() {
  say "$*"
  exit 1
}
