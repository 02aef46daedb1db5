FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
# Versions are those of the image's Debian release.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev
COPY .cargo .cargo
COPY Cargo.toml Cargo.lock ./
COPY benches benches
# The dependencies alone, with empty programs: a layer that is used again until they change.
RUN mkdir -p src/bin/hookgate-bench \
    && touch src/lib.rs \
    && echo 'fn main() {}' > src/main.rs \
    && echo 'fn main() {}' > src/bin/hookgate-bench/main.rs \
    && cargo build --release --locked --no-default-features \
    && rm -r src
COPY src src
COPY migrations migrations
COPY templates templates
# What hookgate_build_info shows: --build-arg HOOKGATE_REVISION=$(git rev-parse --short HEAD)
ARG HOOKGATE_REVISION=unknown
# Newer than the empty programs, whatever the times of the files are.
RUN find src migrations templates -type f -exec touch {} + \
    && HOOKGATE_REVISION="$HOOKGATE_REVISION" cargo build --release --locked --no-default-features

FROM debian:bookworm-slim
# The uid is fixed, so that a volume's or a host's directory can be given to it.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --system --gid 10001 hookgate \
    && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /data hookgate \
    && install --directory --owner 10001 --group 10001 --mode 0700 /data
COPY --from=build /src/target/release/hookgate /usr/local/bin/hookgate
USER 10001:10001
WORKDIR /data
ENV HOST=0.0.0.0 DATA_DIR=/data
VOLUME /data
EXPOSE 3000
# Asks the server that HOST, PORT and TLS_CERT describe.
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s --retries=3 CMD ["hookgate", "health"]
# After SIGTERM the server finishes what is in flight. Wait longer than SHUTDOWN_TIMEOUT before SIGKILL.
ENTRYPOINT ["hookgate"]
CMD ["serve"]
