FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev
COPY .cargo .cargo
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY migrations migrations
COPY benches benches
RUN cargo build --release --locked --no-default-features

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --create-home --home-dir /data hookgate
COPY --from=build /src/target/release/hookgate /usr/local/bin/hookgate
USER hookgate
ENV HOST=0.0.0.0 DATA_DIR=/data
VOLUME /data
EXPOSE 3000
# After SIGTERM the server drains its journal and finishes deliveries. Wait longer than SHUTDOWN_TIMEOUT before SIGKILL.
ENTRYPOINT ["hookgate"]
CMD ["serve"]
