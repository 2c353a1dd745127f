# Validates engines and converts ONNX files in CI, without torch. In the repository:
#
#   docker build -f examples/ci.Dockerfile -t edgeres-ci .
#   docker run --rm --network none -v "$PWD:/work" edgeres-ci \
#       validate out/onnxruntime/model.onnx --data imagefolder:data \
#       --baseline ci/predictions.npz --max-drop 0.5 --junit gate.xml
#
# The exit code is that of edgeres. A recipe that prunes or a checkpoint needs EXTRAS=torch,onnxruntime,openvino.

FROM python:3.11-slim AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY edgeres edgeres
COPY recipes recipes
COPY calibration calibration
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheel .

FROM python:3.11-slim
ARG EXTRAS=onnxruntime,openvino
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip install --no-cache-dir "$(echo /wheel/edgeres-*.whl)[$EXTRAS]"
WORKDIR /work
ENTRYPOINT ["edgeres"]
CMD ["doctor"]
