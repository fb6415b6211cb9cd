# The static binary, alone in its image:
#
#   docker build -t haproxy-nomad-sidecar .

FROM rust:1.95-slim AS build
RUN rustup target add x86_64-unknown-linux-musl
WORKDIR /src
COPY . .
RUN cargo build --release --locked --target x86_64-unknown-linux-musl

FROM scratch
# For a Nomad at an https:// address whose certificate a public authority signed.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /src/target/x86_64-unknown-linux-musl/release/haproxy-nomad-sidecar /
# By number, since there is no /etc/passwd. HAProxy's socket must be open to it: give it HAProxy's group, as
# compose.yaml does.
USER 10001:10001
ENTRYPOINT ["/haproxy-nomad-sidecar"]
