# syntax=docker/dockerfile:1

FROM rust:1.95-bookworm AS build
WORKDIR /build
COPY . .
# Crates and build output stay in caches of the builder, so that a second build only compiles what changed.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    scripts/build-release /out

FROM debian:bookworm-slim
LABEL org.opencontainers.image.title="notify-server" \
      org.opencontainers.image.description="Pushes NATS events to browsers over Server-Sent Events, within milliseconds." \
      org.opencontainers.image.licenses="Apache-2.0 OR MIT"

# The ids are fixed, so that the owner of a mounted folder can be set from outside.
RUN groupadd --system --gid 10001 notify \
    && useradd --system --uid 10001 --gid notify --home-dir /var/lib/notify-server --shell /usr/sbin/nologin notify \
    && install --directory --owner=notify --group=notify --mode=0750 /var/lib/notify-server

# Certificate authorities, for NATS, databases and key sets behind TLS.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY LICENSE LICENSE-APACHE LICENSE-MIT /usr/share/doc/notify-server/
COPY config.yml /etc/notify-server/config.yml
COPY --from=build /out/notify-server /usr/local/bin/notify-server

# The configuration is looked for in the working directory. A container's own loopback is no use to anyone,
# so all addresses are listened on; without an auth key the server then refuses to start.
WORKDIR /etc/notify-server
ENV NOTIFY_SERVER__HOST=0.0.0.0 \
    NOTIFY_SERVER__DATA_DIR=/var/lib/notify-server \
    NOTIFY_SERVER__LOGGING__FORMAT=json
USER 10001:10001
EXPOSE 6687
HEALTHCHECK --interval=10s --timeout=5s --start-period=15s --retries=3 CMD ["notify-server", "health"]
ENTRYPOINT ["notify-server"]
CMD ["serve"]
