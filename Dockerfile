# The gateway in a container: built here, run as a user without rights.

FROM rust:1.95-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends cmake \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /wxgate
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY benches benches
RUN cargo build --locked --release

FROM debian:bookworm-slim
# WeChat's certificate is checked against these.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin wxgate \
    && install -d -o wxgate -m 0700 /var/lib/wxgate
COPY --from=build /wxgate/target/release/wxgate /usr/local/bin/wxgate
COPY deploy/live /usr/local/bin/wxgate-live
USER 10001
# Sessions and the signing key: [session] store = "sqlite:/var/lib/wxgate/wxgate.db".
VOLUME /var/lib/wxgate
WORKDIR /etc/wxgate
EXPOSE 8080 9090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=2s --start-period=10s CMD ["wxgate-live", "127.0.0.1", "9090"]
ENTRYPOINT ["wxgate"]
CMD ["run", "-c", "/etc/wxgate/gateway.toml"]
