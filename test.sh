#!/usr/bin/env bash
# Passes the tests: makes sure that there is a Vulkan adapter, then runs `cargo test`.
#
# Without an adapter Mesa's software driver is installed through the system's package manager, when there is one and it may
# (root, or sudo without a password). Where that fails, the tests of the gpu backend cannot run: this script says so and fails, unless
# FUSELSTM_WITHOUT_GPU=1 tells it to go on without them. Arguments go to `cargo test`.
set -euo pipefail
cd "$(dirname "$0")"

# What does not compile is no missing adapter.
cargo build --bin fuselstm

has_adapter() { cargo run --quiet --bin fuselstm -- devices --json | grep -q '"gpu": true'; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then sudo "$@"
    else return 1; fi
}

install_driver() {
    echo "No Vulkan adapter: installing Mesa's software driver." >&2
    if command -v apt-get >/dev/null; then
        as_root apt-get update -qq && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends mesa-vulkan-drivers libvulkan1
    elif command -v dnf >/dev/null; then
        as_root dnf install -y -q mesa-vulkan-drivers vulkan-loader
    elif command -v pacman >/dev/null; then
        as_root pacman -Sy --noconfirm --needed vulkan-swrast vulkan-icd-loader
    else
        return 1
    fi
}

if [ "$(uname)" = Linux ] && ! has_adapter; then
    install_driver >&2 || echo "The driver could not be installed." >&2
fi
if has_adapter; then
    export FUSELSTM_REQUIRE_GPU=1
elif [ "${FUSELSTM_WITHOUT_GPU:-0}" = 1 ]; then
    echo "NOT TESTED: the gpu backend. There is no Vulkan, Metal or DirectX 12 adapter." >&2
else
    echo "There is no Vulkan, Metal or DirectX 12 adapter, so the tests of the gpu backend cannot run." >&2
    echo "Install a driver (Debian: mesa-vulkan-drivers libvulkan1), or set FUSELSTM_WITHOUT_GPU=1 to go on without them." >&2
    exit 1
fi
cargo test "$@"
