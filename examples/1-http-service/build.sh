#!/bin/sh
# The way before multi-stage builds: compile in one image, carry the binary
# out, and carry it into another.
set -e
cd "$(dirname "$0")"

echo Building http-server:build
docker build -t http-server:build . -f Dockerfile.build

docker create --name extract http-server:build
docker cp extract:/go/src/http-server/http-server ./http-server
docker rm -f extract

echo Building http-server:latest
docker build --no-cache -t http-server:latest . -f Dockerfile.old
rm ./http-server
