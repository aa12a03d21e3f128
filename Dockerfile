# The image that CI runs: tidegate and the few tools its steps call, in a file system that holds nothing else.
# Plain Dockerfile syntax throughout: GitHub builds this with `docker build`, and any engine should be able to.
# Both bases are arguments, so that a mirror or a machine without a registry can bring its own.
ARG RUST_IMAGE=docker.io/library/rust:1.95.0-slim-trixie@sha256:e14e87345b4d5964ddcc3491d27ee046a0f23820f340c3c1e24da6880141f7c0
ARG DEBIAN_IMAGE=docker.io/library/debian:trixie-slim@sha256:d7e12182ce18b85b93007c1dedf31f2d29e01ccf3182cc4017c709b6259bc132


FROM ${RUST_IMAGE} AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /build
# Static glibc still loads the name service modules that a host configures (mDNS, systemd-resolved), and dies of those made for
# another glibc. Files and DNS are built in: this object, run before main, asks for nothing else.
RUN printf '%s\n' '#include <nss.h>' \
        '__attribute__((constructor)) static void names(void) {' \
        '  __nss_configure_lookup("hosts", "files dns"); __nss_configure_lookup("passwd", "files"); __nss_configure_lookup("group", "files");' \
        '}' | gcc -Wall -Werror -O2 -fPIE -c -x c -o names.o -
# Static, so that the same file runs on any Linux. A named target keeps the flags away from procedural macros, which are dynamic.
ENV RUSTFLAGS="-C target-feature=+crt-static -C link-arg=/build/names.o"
# Dependencies take minutes and change seldom: they are a layer of their own, built around an empty program.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src tests/it tests/real \
    && touch src/lib.rs \
    && echo 'fn main() {}' | tee src/main.rs tests/it/main.rs tests/real/main.rs \
    && cargo build --release --locked --target "$(rustc --print host-tuple)"
COPY templates templates
COPY src src
# Cargo goes by times, and a checkout may be older than the layer above.
RUN touch src/lib.rs src/main.rs \
    && cargo build --release --locked --target "$(rustc --print host-tuple)" \
    && cp target/*/release/tidegate /tidegate \
    && ldd /tidegate | grep 'statically linked'


# `docker build --target binary --output type=local,dest=DIR .` leaves the binary alone: what a release uploads.
FROM scratch AS binary
COPY --from=build /tidegate /tidegate


FROM ${DEBIAN_IMAGE} AS rootfs
# PGDG=yes takes the PostgreSQL clients from PostgreSQL's own repository, which has the newest major: pg_dump refuses newer servers.
ARG PGDG=""
# -e ends a step at the first command that fails, inside loops too, where && would go on: commands are joined with ;
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# Versions are not pinned, so that each build has the security fixes of its day; the suite brings nothing else.
# hadolint ignore=DL3008
RUN apt-get update; \
    if [ -n "$PGDG" ]; then \
        apt-get install -y --no-install-recommends ca-certificates postgresql-common; \
        /usr/share/postgresql-common/pgdg/apt.postgresql.org.sh -y; \
    fi; \
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends busybox-static ca-certificates git openssh-client postgresql-client tzdata; \
    rm -rf /var/lib/apt/lists/*

# One folder for programs and one for libraries, with the old names as links, as the distribution has it.
RUN mkdir -p /rootfs/{etc/ssl/certs,root,tmp,usr/bin,usr/lib/ssl,usr/lib64,usr/share/git-core/templates,var/lib/dpkg/status.d}; \
    chmod 700 /rootfs/root; \
    chmod 1777 /rootfs/tmp; \
    ln -s usr/bin /rootfs/bin; \
    ln -s usr/bin /rootfs/sbin; \
    ln -s usr/lib /rootfs/lib; \
    ln -s usr/lib64 /rootfs/lib64

# A shell and what scripts expect beside it: GitLab wraps each job in one. No network tools, no package tools.
RUN cp /usr/bin/busybox /rootfs/usr/bin/; \
    busybox --list >/applets; \
    for applet in \
        '[' ash awk base64 basename cat chmod chown cmp cp cut date dd df diff dirname du echo egrep env expr false fgrep find \
        grep gunzip gzip head hexdump hostname id kill less ln ls md5sum mkdir mkfifo mktemp more mv nl nproc od paste printf \
        ps pwd readlink realpath rm rmdir sed seq sh sha1sum sha256sum sha512sum sleep sort stat stty sync tac tail tar tee \
        test time timeout touch tr true tty uname uniq unxz unzip vi wc which whoami xargs xxd yes zcat; \
    do grep -Fqx -- "$applet" /applets; ln -s busybox "/rootfs/usr/bin/$applet"; done

# Git without its helper programs: tidegate reads a checkout and never fetches, and HTTPS would add a quarter to the image.
# The PostgreSQL programs themselves: what stands in /usr/bin is a wrapper in Perl. ssh is the way to a swarm's manager.
RUN cp /usr/bin/git /usr/bin/ssh /usr/lib/postgresql/*/bin/{pg_dump,pg_restore,psql} /rootfs/usr/bin/; \
    ldd /rootfs/usr/bin/{git,ssh,pg_dump,pg_restore,psql} | grep -o '/[^ :]*\.so[^ :]*' | sort -u >/libraries; \
    xargs -a /libraries cp -L --parents -t /rootfs

# The roots where TLS libraries look for them, zones for freezes, names resolved by files and DNS alone.
RUN cp -L /etc/ssl/certs/ca-certificates.crt /rootfs/etc/ssl/certs/; \
    ln -s /etc/ssl/certs/ca-certificates.crt /rootfs/usr/lib/ssl/cert.pem; \
    cp -r /usr/share/zoneinfo /rootfs/usr/share/; \
    cp -L /etc/os-release /etc/debian_version /rootfs/etc/; \
    printf '%s\n' 'root:x:0:0:root:/root:/bin/sh' 'nobody:x:65534:65534:nobody:/nonexistent:/bin/false' >/rootfs/etc/passwd; \
    printf '%s\n' 'root:x:0:' 'nogroup:x:65534:' >/rootfs/etc/group; \
    printf '%s\n' 'passwd: files' 'group: files' 'hosts: files dns' >/rootfs/etc/nsswitch.conf

# Each package that something was taken from leaves its licence, and its record for scanners of vulnerabilities.
RUN xargs -a /libraries realpath >/taken; \
    printf '%s\n' /usr/bin/busybox /usr/bin/git /usr/bin/ssh /usr/lib/postgresql/*/bin/psql >>/taken; \
    xargs -a /taken dpkg-query -S | cut -d: -f1 >/packages; \
    printf '%s\n' ca-certificates tzdata >>/packages; \
    sort -u /packages | while read -r package; do \
        cp -L --parents "/usr/share/doc/$package/copyright" /rootfs; \
        dpkg-query -s "$package" >"/rootfs/var/lib/dpkg/status.d/$package"; \
    done


FROM scratch
COPY --from=rootfs /rootfs /
COPY LICENSE-APACHE LICENSE-MIT /usr/share/doc/tidegate/
COPY --from=build /tidegate /usr/local/bin/tidegate
ENV PATH=/usr/local/bin:/usr/bin
# A program that does not start here is not published; `ssh -V` reaches nothing.
# hadolint ignore=DL3001
RUN tidegate --version && git --version && ssh -V && pg_dump --version && pg_restore --version && psql --version
# Root, for GitHub mounts the workspace and its command files with an owner the image cannot know: no USER here.
ENTRYPOINT ["/usr/local/bin/tidegate"]
# Last, so that a new revision changes no layer.
ARG VERSION=""
ARG REVISION=""
ARG CREATED=""
LABEL org.opencontainers.image.title="tidegate" \
      org.opencontainers.image.description="One CI step that decides, builds once, waits for quiet queues, deploys, proves what runs and tells the pull request" \
      org.opencontainers.image.source="https://github.com/tidegate/tidegate" \
      org.opencontainers.image.documentation="https://github.com/tidegate/tidegate#readme" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
