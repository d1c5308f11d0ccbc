# Every step of maskline, and the MLflow server. The build context is the repository:
#
#     docker build -f docker/trainer.Dockerfile -t maskline/trainer:cpu .
#     docker build -f docker/trainer.Dockerfile -t maskline/trainer:gpu --build-arg BUILD=gpu .
#
# BUILD=gpu brings CUDA's libraries as wheels, so that the host's driver and NVIDIA's container toolkit suffice.
# COMMIT is what runs say of where their code came from. Where packages come from an index of your own, its settings
# (UV_DEFAULT_INDEX=..., PIP_INDEX_URL=...) go in as a secret that no layer keeps: --secret id=index,src=FILE
ARG PYTHON_IMAGE=python:3.12-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG UV_VERSION=0.13.9
ARG BUILD=cpu
ENV UV_LINK_MODE=copy UV_NO_CACHE=1
WORKDIR /opt/maskline
RUN --mount=type=secret,id=index \
    set -eua; [ ! -f /run/secrets/index ] || . /run/secrets/index; \
    python3 -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir --quiet "uv==${UV_VERSION}"
COPY pyproject.toml uv.lock hatch_build.py README.md ./
# Packages first: they change less often than our code does, and take most of the time.
RUN --mount=type=secret,id=index \
    set -eua; [ ! -f /run/secrets/index ] || . /run/secrets/index; \
    /opt/uv/bin/uv sync --quiet --frozen --no-dev --no-install-project \
        --extra "${BUILD}" --extra s3 --extra gs --extra formats --extra onnx --extra server
COPY configs configs
COPY tasks tasks
RUN --mount=type=secret,id=index \
    set -eua; [ ! -f /run/secrets/index ] || . /run/secrets/index; \
    /opt/uv/bin/uv sync --quiet --frozen --no-dev \
        --extra "${BUILD}" --extra s3 --extra gs --extra formats --extra onnx --extra server

FROM ${PYTHON_IMAGE}
ARG COMMIT=
LABEL org.opencontainers.image.title="maskline trainer" org.opencontainers.image.revision="${COMMIT}"
RUN useradd --uid 10001 --gid 0 --create-home maskline && install -d -o 10001 -g 0 -m 775 /workspace
COPY --from=build /opt/maskline /opt/maskline
# Nothing outside /workspace and /tmp is written, so the root may be read-only.
ENV PATH=/opt/maskline/.venv/bin:$PATH \
    MASKLINE_COMMIT=${COMMIT} \
    MASKLINE_WORKSPACE=/workspace \
    MPLCONFIGDIR=/tmp/matplotlib \
    MLFLOW_DISABLE_TELEMETRY=true
WORKDIR /opt/maskline
USER 10001
ENTRYPOINT ["maskline"]
CMD ["--help"]
