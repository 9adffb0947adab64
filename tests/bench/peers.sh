#!/bin/sh
# Measure beside two other tus servers, which are built into a folder first, where they are not there yet:
#
#     tests/bench/peers.sh FOLDER [options of bench.py]
#
# Go tusd (needs Go) with its file store and file locks, and @tus/server (needs Node) with its file store.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "${1:?usage: tests/bench/peers.sh FOLDER [options of bench.py]}"
folder=$(cd "$1" && pwd)
shift

if [ ! -x "$folder/tusd" ]; then
    GOBIN="$folder" go install github.com/tus/tusd/v2/cmd/tusd@latest
fi
if [ ! -d "$folder/node_modules/@tus/server" ]; then
    npm install --prefix "$folder" --no-audit --no-fund --silent @tus/server @tus/file-store
fi
cp "$here/tus_server.mjs" "$folder/"

exec "${PYTHON:-python3}" "$here/bench.py" --workers 1,2 \
    --peer go="$folder/tusd -host 127.0.0.1 -port {port} -upload-dir {dir}/data -base-path /files/ -show-greeting=false -verbose=false" \
    --peer node="node $folder/tus_server.mjs {port} {dir}/data" \
    "$@"
