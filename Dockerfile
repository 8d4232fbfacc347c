# One image for agent, endpoint and controller; which one runs is its first argument.
# The base may be chosen: --build-arg BASE=… (any Debian 12 or newer with apt). Only what is listed below is taken from
# it: the result holds no shell, no package manager and no compiler. scripts/image builds it without a registry.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS system
# What the agent's child processes call to read netfilter: iptables (both back ends), nft, ipset.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates python3-minimal libpython3-stdlib \
      iptables nftables ipset \
 && rm -rf /var/lib/apt/lists/*

FROM system AS build
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3-venv python3-pip python3-setuptools python3-wheel \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY requirements.lock ./
RUN python3 -m venv --system-site-packages --without-pip /opt/kubereach \
 && python3 -m pip --python /opt/kubereach/bin/python install --no-cache-dir --no-compile \
      --disable-pip-version-check --ignore-installed --require-hashes -r requirements.lock
COPY pyproject.toml README.md ./
COPY model model
COPY agent agent
COPY controller controller
COPY cli cli
COPY lab lab
COPY scripts/rootfs scripts/rootfs
RUN python3 -m pip --python /opt/kubereach/bin/python install --no-cache-dir --no-compile \
      --disable-pip-version-check --no-deps --no-build-isolation . \
 && scripts/rootfs /rootfs /opt/kubereach

FROM scratch
COPY --from=build /rootfs /
ENV PATH=/opt/kubereach/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 XDG_CACHE_HOME=/tmp
# The DaemonSet runs the agent as root with few capabilities; endpoint and controller run as this user.
USER 65532:65532
ENTRYPOINT ["kubereach"]
