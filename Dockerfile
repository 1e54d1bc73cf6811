# The command line in a container, for a processor or for CUDA:
#   docker build --target cpu  --tag zephyr .
#   docker build --target cuda --tag zephyr:cuda .
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS wheel
WORKDIR /source
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY src src
COPY recipes recipes
RUN pip install --no-cache-dir --constraint constraints.txt hatchling \
    && python -m hatchling build -t wheel -d /wheel

FROM ${BASE} AS base
# Nothing runs as root, and what is written below /work belongs to whoever starts it: docker run --user "$(id -u):$(id -g)".
RUN useradd --create-home --uid 1000 zephyr \
    && mkdir /work /cache \
    && chown zephyr:zephyr /work /cache \
    && chmod 1777 /cache
ENV PATH=/opt/zephyr/bin:$PATH \
    HF_HOME=/cache/huggingface \
    HF_HUB_DISABLE_TELEMETRY=1 \
    PYTHONUNBUFFERED=1 \
    XDG_CACHE_HOME=/cache
COPY constraints.txt /opt/constraints.txt
WORKDIR /work
ENTRYPOINT ["zephyr"]
CMD ["--help"]

# torch as the package index has it for Linux: with CUDA, several gigabytes.
FROM base AS cuda
ARG EXTRAS=ui,serve,eval,hub,track,gpu
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    python -m venv /opt/zephyr \
    && wheel="$(find /wheel -name '*.whl')" \
    && /opt/zephyr/bin/pip install --no-cache-dir --constraint /opt/constraints.txt "${wheel}[${EXTRAS}]"
USER 1000

FROM base AS cpu
ARG EXTRAS=ui,serve,eval,hub,track
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    python -m venv /opt/zephyr \
    && wheel="$(find /wheel -name '*.whl')" \
    && /opt/zephyr/bin/pip install --no-cache-dir --constraint /opt/constraints.txt \
        --extra-index-url "${TORCH_INDEX}" "${wheel}[${EXTRAS}]"
USER 1000
