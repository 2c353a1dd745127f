# A bundle and what runs it, without torch. In the repository, with the bundle beside it:
#
#   docker build -f examples/runtime.Dockerfile --build-arg BUNDLE=net.edgeres -t net .
#   docker run --rm --network none --read-only -v "$PWD/photos:/photos:ro" net /photos/cat.jpg
#
# The bundle says which engine it has: EXTRA=openvino for one of OpenVINO.

FROM python:3.11-slim AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY edgeres edgeres
COPY recipes recipes
COPY calibration calibration
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheel .

FROM python:3.11-slim
ARG EXTRA=onnxruntime
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip install --no-cache-dir "$(echo /wheel/edgeres-*.whl)[$EXTRA]"
ARG BUNDLE=net.edgeres
COPY ${BUNDLE} /net.edgeres
RUN useradd --create-home --uid 1000 runner
USER 1000
# A bundle that does not fit this machine, or whose self-test fails, ends with a code other than 0.
ENTRYPOINT ["edgeres", "run", "/net.edgeres"]
