#!/bin/sh
# Builds InfluxDB 2.x from its published Go module, for machines without a
# Docker engine.  Usage: build-influxd.sh CACHE_DIR.  Prints the binary's path.
#
# `go install …/influxd@version` is refused, since its go.mod has replace
# directives, so a wrapper module builds the same program.  Flux, its query
# engine, is Rust: it denies warnings, and a newer rustc has new ones, hence
# the wrapper that caps lints.
set -eu
version=2.9.1
dir="$1/influxd-$version"
binary="$dir/influxd"
[ -x "$binary" ] && { echo "$binary"; exit 0; }

for tool in go cargo rustc gcc pkg-config; do
    command -v "$tool" >/dev/null || { echo "influxd: $tool is missing" >&2; exit 3; }
done
mkdir -p "$dir/tools" "$dir/module"
log() { echo "influxd: $1" >&2; }

log "fetching the build helper"
GOBIN="$dir/tools" go install github.com/influxdata/pkg-config@v0.3.0
cat >"$dir/tools/rustc-caplints" <<'SH'
#!/bin/sh
rustc=$1; shift
case " $* " in *" --cap-lints "*) exec "$rustc" "$@";; *) exec "$rustc" "$@" --cap-lints warn;; esac
SH
chmod +x "$dir/tools/rustc-caplints"

cd "$dir/module"
printf 'module influxd-build\n\ngo 1.25.10\n' >go.mod
log "downloading modules"
go get "github.com/influxdata/influxdb/v2/cmd/influxd@v$version"

# Flux names a toolchain of its own in a file; without this rustup would try
# to download it.
if command -v rustup >/dev/null; then
    RUSTUP_TOOLCHAIN=$(rustup toolchain list | awk 'NR == 1 { print $1 }')
    export RUSTUP_TOOLCHAIN
fi
log "compiling (about nine minutes on two cores)"
PKG_CONFIG="$dir/tools/pkg-config" RUSTC_WRAPPER="$dir/tools/rustc-caplints" \
CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_BUILD_OVERRIDE_OPT_LEVEL=1 \
GOTOOLCHAIN=local CGO_ENABLED=1 \
    go build -trimpath -tags sqlite_foreign_keys,sqlite_json -ldflags "-s -w" \
    -o "$binary.new" github.com/influxdata/influxdb/v2/cmd/influxd
mv "$binary.new" "$binary"
log "built"
echo "$binary"
