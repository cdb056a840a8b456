# The base is an argument so that it can be a mirror or a hardened image: anything with Python 3.11 or newer.
ARG BASE=docker.io/library/python:3.13-slim
FROM ${BASE} AS build
WORKDIR /src
COPY requirements/runtime.txt requirements/build.txt ./
RUN python3 -m venv /opt/operator \
 && /opt/operator/bin/pip install --no-cache-dir --require-hashes -r runtime.txt
COPY pyproject.toml README.md LICENSE ./
COPY operator operator
RUN python3 -m venv /opt/build \
 && /opt/build/bin/pip install --no-cache-dir --require-hashes -r build.txt \
 && /opt/build/bin/python -m hatchling build -t wheel \
 && /opt/operator/bin/pip install --no-cache-dir --no-deps dist/*.whl

FROM ${BASE}
COPY --from=build /opt/operator /opt/operator
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
ENTRYPOINT ["/opt/operator/bin/serviceidentity-operator"]
