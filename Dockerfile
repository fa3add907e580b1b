# One recipe for all services:
#
#   docker build --build-arg SERVICE=judge-compat --tag fashiondpo/judge-compat .
#
# It carries the extra of that service (pyproject.toml) in the tested versions (constraints.txt), the mini models, and no
# compiler. How to choose torch for the CPU, another base or a package index of one's own: docs/deployment.md.

# Any image with python3.11 and its venv module.
ARG BASE_IMAGE=python:3.11-slim-bookworm


# What all services share; the largest part by far, and one layer that their images have in common.
FROM ${BASE_IMAGE} AS torch

# cuda or cpu.
ARG TORCH_VARIANT=cuda
# Exact version; empty: the tested one. Versions for the CPU may end in +cpu.
ARG TORCH_VERSION=
# A further package index, for torch and torchvision alone; the CPU variant needs one, unless pip's own hold builds for it.
ARG TORCH_INDEX=

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore

WORKDIR /source
COPY constraints.txt ./
COPY deploy/image/install-torch deploy/image/
# The secret is a pip.conf, for those who have an index of their own; nothing of it stays in a layer.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf sh deploy/image/install-torch


FROM torch AS build

ARG TORCH_VARIANT=cuda
ARG TORCH_INDEX=
# generator, judge-quality, judge-compat, judge-personal or trainer.
ARG SERVICE
# Further packages, e.g. s3fs for artifacts in S3.
ARG EXTRA_PACKAGES=

COPY pyproject.toml ./
COPY deploy/image/install-dependencies deploy/image/fit_torch_for_cpu.py deploy/image/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf sh deploy/image/install-dependencies

COPY LICENSE README.md ./
COPY deploy/image/ deploy/image/
COPY fashiondpo/ fashiondpo/
COPY services/ services/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf sh deploy/image/install-service


FROM ${BASE_IMAGE}

# No RUN here: whatever has to be made is made above, and no tool that makes it is left.
COPY --from=torch /etc/passwd /etc/group /etc/
COPY --from=torch --chown=10001:10001 /image/state/ /var/lib/fashiondpo/
COPY --from=torch /app/ /app/
COPY assets/mini/ /app/assets/mini/
COPY --from=build /image/app/ /app/

ARG SERVICE
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="FashionDPO ${SERVICE}" \
      org.opencontainers.image.description="Completes outfits with generated garments and learns what people like." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# Everything that is written goes to /tmp, or to the volumes below /var/lib/fashiondpo; the root can be read-only. Services
# never ask a model hub: what they need was fetched before.
ENV PATH=/app/bin:/app/venv/bin:${PATH} \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    FASHIONDPO_SERVICE=${SERVICE} \
    HOME=/var/lib/fashiondpo \
    HF_HOME=/var/lib/fashiondpo/models/huggingface \
    TORCH_HOME=/var/lib/fashiondpo/models/torch \
    HF_HUB_OFFLINE=1 \
    XDG_CACHE_HOME=/tmp/cache \
    MPLCONFIGDIR=/tmp/matplotlib \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

WORKDIR /var/lib/fashiondpo
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=10s --start-period=300s --retries=4 CMD ["python", "/app/healthcheck.py", "livez"]
ENTRYPOINT ["entry"]
CMD ["serve"]
