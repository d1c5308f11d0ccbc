# Airflow with the DAGs, in two forms: `airflow` for the scheduler and the pages, and `worker`, which is the trainer with Airflow's
# worker beside it, so that a step is a process of the worker as it is on a laptop. The build context is the repository:
#
#     docker build -f docker/airflow.Dockerfile -t maskline/airflow --target airflow .
#     docker build -f docker/airflow.Dockerfile -t maskline/worker:cpu --target worker --build-arg TRAINER_IMAGE=maskline/trainer:cpu .
#
# Both images have to start from the same Python as the trainer: their environments are linked to it.
ARG PYTHON_IMAGE=python:3.12-slim-bookworm
ARG TRAINER_IMAGE=maskline/trainer:cpu

FROM ${PYTHON_IMAGE} AS build
ARG UV_VERSION=0.13.9
ENV UV_LINK_MODE=copy UV_NO_CACHE=1
WORKDIR /opt/maskline/dags
RUN --mount=type=secret,id=index \
    set -eua; [ ! -f /run/secrets/index ] || . /run/secrets/index; \
    python3 -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir --quiet "uv==${UV_VERSION}"
COPY dags/pyproject.toml dags/uv.lock ./
RUN --mount=type=secret,id=index \
    set -eua; [ ! -f /run/secrets/index ] || . /run/secrets/index; \
    /opt/uv/bin/uv sync --quiet --frozen --no-dev --extra cluster --extra docker --extra kubernetes --extra notifications --extra s3 --extra gs
COPY dags ./
# Where steps run as pods, they are made from it.
COPY docker/kubernetes /opt/maskline/docker/kubernetes

FROM ${TRAINER_IMAGE} AS worker
COPY --from=build /opt/maskline/dags /opt/maskline/dags
COPY --from=build /opt/maskline/docker /opt/maskline/docker
COPY docker/airflow-entrypoint.sh /entrypoint
USER 0
RUN install -d -o 10001 -g 0 -m 775 /opt/airflow
USER 10001
ENV PATH=/opt/maskline/dags/.venv/bin:$PATH \
    AIRFLOW_HOME=/opt/airflow \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/maskline/dags \
    AIRFLOW__CORE__LOAD_EXAMPLES=False \
    PYTHONPATH=/opt/maskline/dags
ENTRYPOINT ["/entrypoint"]
CMD ["celery", "worker", "--queues", "default"]

FROM ${PYTHON_IMAGE} AS airflow
LABEL org.opencontainers.image.title="maskline airflow"
RUN useradd --uid 10001 --gid 0 --create-home maskline \
    && install -d -o 10001 -g 0 -m 775 /workspace /opt/airflow
COPY --from=build /opt/maskline/dags /opt/maskline/dags
COPY --from=build /opt/maskline/docker /opt/maskline/docker
COPY docker/airflow-entrypoint.sh /entrypoint
COPY configs /opt/maskline/configs
ENV PATH=/opt/maskline/dags/.venv/bin:$PATH \
    MASKLINE_WORKSPACE=/workspace \
    AIRFLOW_HOME=/opt/airflow \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/maskline/dags \
    AIRFLOW__CORE__LOAD_EXAMPLES=False \
    PYTHONPATH=/opt/maskline/dags
WORKDIR /opt/maskline
USER 10001
ENTRYPOINT ["/entrypoint"]
CMD ["version"]
