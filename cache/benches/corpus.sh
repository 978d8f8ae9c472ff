#!/bin/sh
# Fetches successive releases of real packages for the chunking bench and unpacks each to one plain
# tar, so that the bench sees what an origin without compression would serve.
#
#     cache/benches/corpus.sh DIR
#     STOQ_CORPUS=DIR cargo bench -p stoq-cache --bench chunking
#
# DIR then holds <class>/<package>/<nn>-<version>.<tar|whl>; the bench compares neighbours in name
# order. Needs npm, pip, cargo, python3 and tar. About 700 MB. Nothing is executed from a package.
set -eu

dir=${1:?usage: corpus.sh DIR}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# npm NAME VERSION...: the published tarball, gunzipped.
npm_tars() {
    name=$1; shift
    out=$dir/tar/npm-$(echo "$name" | tr -d '@' | tr '/' '-')
    mkdir -p "$out"
    n=0
    for version in "$@"; do
        n=$((n + 1))
        to=$out/0$n-$version.tar
        [ -s "$to" ] && continue
        rm -rf "$work/npm"; mkdir -p "$work/npm"
        (cd "$work/npm" && npm pack --silent --ignore-scripts "$name@$version" >/dev/null)
        gunzip -c "$work"/npm/*.tgz >"$to.part"
        mv "$to.part" "$to"
        echo "$to"
    done
}

# pip NAME VERSION...: the wheel as it is (class zip), and its members as one tar (class wheel).
# Members are written in the archive's order with their recorded times, so the tar is reproducible.
pip_wheels() {
    name=$1; shift
    zips=$dir/zip/pip-$name tars=$dir/wheel/pip-$name
    mkdir -p "$zips" "$tars"
    n=0
    for version in "$@"; do
        n=$((n + 1))
        zip=$zips/0$n-$version.whl tar=$tars/0$n-$version.tar
        [ -s "$zip" ] && [ -s "$tar" ] && continue
        rm -rf "$work/pip"; mkdir -p "$work/pip"
        pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
            --python-version 3.12 --platform manylinux2014_x86_64 -d "$work/pip" "$name==$version"
        cp "$work"/pip/*.whl "$zip"
        python3 - "$zip" "$tar" <<'PY'
import io, sys, tarfile, zipfile
with zipfile.ZipFile(sys.argv[1]) as z, tarfile.open(sys.argv[2], "w") as t:
    for member in z.infolist():
        data = z.read(member)
        info = tarfile.TarInfo(member.filename)
        info.size = len(data)
        t.addfile(info, io.BytesIO(data))
PY
        echo "$tar"
    done
}

# cargo NAME VERSION...: the crate file from cargo's own download cache, gunzipped.
cargo_tars() {
    name=$1; shift
    out=$dir/tar/cargo-$name
    mkdir -p "$out"
    n=0
    for version in "$@"; do
        n=$((n + 1))
        to=$out/0$n-$version.tar
        [ -s "$to" ] && continue
        rm -rf "$work/cargo"; mkdir -p "$work/cargo/src"
        : >"$work/cargo/src/lib.rs"
        printf '[package]\nname = "fetch"\nversion = "0.0.0"\nedition = "2021"\n[workspace]\n[dependencies]\n%s = "=%s"\n' \
            "$name" "$version" >"$work/cargo/Cargo.toml"
        (cd "$work/cargo" && cargo fetch --quiet)
        crate=$(ls "${CARGO_HOME:-$HOME/.cargo}"/registry/cache/*/"$name-$version.crate" | head -1)
        gunzip -c "$crate" >"$to.part"
        mv "$to.part" "$to"
        echo "$to"
    done
}

npm_tars typescript 5.6.2 5.6.3 5.7.2
npm_tars react-dom 18.1.0 18.2.0 18.3.1
npm_tars webpack 5.95.0 5.96.0 5.96.1
npm_tars @angular/core 18.2.10 18.2.11 18.2.12
npm_tars next 14.2.16 14.2.17 14.2.18
pip_wheels django 5.1.1 5.1.2 5.1.3
pip_wheels numpy 2.1.1 2.1.2 2.1.3
pip_wheels scipy 1.14.0 1.14.1
cargo_tars tokio 1.41.0 1.41.1 1.42.0
cargo_tars syn 2.0.85 2.0.86 2.0.87

du -sh "$dir"
