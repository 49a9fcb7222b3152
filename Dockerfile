# Convex Scoring in a container: the server and the nightly job from one image.
#   docker build -t convex-scoring .
#   docker build -t convex-scoring-gpu --build-arg LOCK=requirements/gpu.lock .
ARG BASE_IMAGE=python:3.11-slim

FROM ${BASE_IMAGE} AS build
ARG LOCK=requirements/cpu.lock
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY ${LOCK} requirements.lock
# Two optional secrets, the builder's pip settings and CA bundle: seen by this step only, never in a layer.
# TensorFlow's C++ headers and libclang (350 MB) are for building against TensorFlow, which nothing here does.
RUN --mount=type=secret,id=pipconf --mount=type=secret,id=ca.pem \
    if [ -s /run/secrets/pipconf ]; then export PIP_CONFIG_FILE=/run/secrets/pipconf; fi; \
    python -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-deps --require-hashes --only-binary :all: --progress-bar off -r requirements.lock \
    && rm -rf /opt/venv/lib/python3.*/site-packages/tensorflow/include /opt/venv/lib/python3.*/site-packages/clang
# The program engine's kernel, compiled by a compiler that stays here.
COPY requirements/kernel.lock kernel.lock
COPY service service
RUN --mount=type=secret,id=pipconf --mount=type=secret,id=ca.pem \
    if [ -s /run/secrets/pipconf ]; then export PIP_CONFIG_FILE=/run/secrets/pipconf; fi; \
    /opt/venv/bin/pip install --no-deps --require-hashes --only-binary :all: --progress-bar off --target /src/zig -r kernel.lock \
    && PYTHONPATH=/src/zig /opt/venv/bin/python -m service.program.kernel.build

FROM ${BASE_IMAGE}
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin convex
COPY --from=build /opt/venv /opt/venv
# HOME: the root may be read-only and the user any number; what a library must cache goes to /tmp.
# NVIDIA_*: no CUDA base image is there to set them. MODEL_BASE_PATH: as in TensorFlow Serving's image.
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp USER=convex \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    MODEL_BASE_PATH=/models CONVEX_HOST=0.0.0.0
WORKDIR /app
COPY deploy/entry /usr/local/bin/convex-scoring
COPY service service
COPY --from=build /src/service/program/kernel/compiled service/program/kernel/compiled
COPY training training
# The user's own: a volume that begins as a copy of it is one that the nightly job may write to.
COPY --chown=10001:10001 models /models
# Readable for every user number, whatever umask the checkout was made with.
RUN chmod -R a+rX /app /models && python -m compileall -q service training
USER 10001:10001
EXPOSE 8500 8501
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s CMD ["python", "-I", "-S", "-c", "import http.client, os; c = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('CONVEX_REST_PORT', '8501')), timeout=2); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["convex-scoring"]
