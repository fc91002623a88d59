# V3D's page and REST calls as an image. Weights are in the package: nothing is fetched when it runs.
#
#     docker build --target cpu -t v3d .            # or --target cuda
#     docker run -p 127.0.0.1:7860:7860 -e V3D_TOKEN=choose-one -v v3d-jobs:/jobs v3d
#
# Then open http://localhost:7860/?token=choose-one.
FROM python:3.12-slim AS base
ENV PYTHONUNBUFFERED=1 NUMBA_CACHE_DIR=/cache
RUN useradd --create-home --uid 1000 v3d && mkdir /jobs /cache && chown 1000 /jobs /cache
WORKDIR /home/v3d
VOLUME /jobs
EXPOSE 7860
HEALTHCHECK --start-period=90s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://localhost:7860/health', timeout=5)"]
CMD ["sh", "-c", "exec v3d app -o /jobs --host 0.0.0.0 --port 7860 --token \"${V3D_TOKEN:?Set V3D_TOKEN: what callers must send.}\""]

# A build of torch for CPUs, which is a tenth of the other's size.
FROM base AS cpu
RUN --mount=type=bind,target=/src,rw \
    pip install --no-cache-dir -c /src/constraints.txt torch --index-url https://download.pytorch.org/whl/cpu \
    && pip install --no-cache-dir -c /src/constraints.txt "/src[app,heif,draco]"
USER 1000

# PyPI's torch brings the libraries of CUDA; the host needs a driver and the NVIDIA container toolkit.
FROM base AS cuda
RUN --mount=type=bind,target=/src,rw \
    pip install --no-cache-dir -c /src/constraints.txt "/src[app,heif,draco]"
USER 1000
