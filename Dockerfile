# One image for agent, endpoint and controller; which one runs is its first argument.
# The base may be chosen: --build-arg BASE=… (any Debian 12 with Python 3.11 or newer).
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
COPY requirements.lock pyproject.toml README.md ./
RUN python3 -m venv /opt/kubereach \
 && /opt/kubereach/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.lock
COPY model model
COPY agent agent
COPY controller controller
COPY cli cli
COPY lab lab
RUN /opt/kubereach/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation . \
 && /opt/kubereach/bin/python -m compileall -q /opt/kubereach/lib

FROM ${BASE}
# What the agent's child processes call: readers of netfilter, sets and connection tracking.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends iproute2 iptables nftables ipset conntrack \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/kubereach /opt/kubereach
ENV PATH=/opt/kubereach/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 XDG_CACHE_HOME=/tmp
# The DaemonSet runs the agent as root with few capabilities; endpoint and controller run as this user.
USER 65532:65532
ENTRYPOINT ["kubereach"]
