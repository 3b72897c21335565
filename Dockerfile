# The gateway as an image: `docker build -t trimtab .`, or docker-compose.yml, which says what to run it with.
#   --build-arg EXTRAS=engine,embed   the bundled model and the embedder too; `gpu` for CUDA, `litellm` for every other
#                                     provider, "" for none of them
#   --build-arg BASE=...         any image with Python 3.11 or newer as python3, and its venv module
ARG BASE=python:3.12-slim

FROM ${BASE} AS build
# Where pip looks. These stay in this stage: neither the final image nor its history holds them.
ARG PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_TRUSTED_HOST
ARG EXTRAS=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CACHE_DIR=/var/cache/pip
RUN python3 -m venv /opt/trimtab
# The dependencies first, by a package that has only our name: a change in the code does not download torch again.
WORKDIR /dependencies
COPY pyproject.toml README.md LICENSE __init__.py ./
RUN --mount=type=cache,target=/var/cache/pip \
    mkdir -p src/trimtab && cp __init__.py src/trimtab/ && /opt/trimtab/bin/pip install ".${EXTRAS:+[${EXTRAS}]}"
WORKDIR /source
COPY . .
RUN --mount=type=cache,target=/var/cache/pip \
    /opt/trimtab/bin/pip wheel --no-deps --wheel-dir /wheels . \
    && /opt/trimtab/bin/pip install --no-deps --force-reinstall /wheels/trimtab-*.whl

FROM ${BASE}
LABEL org.opencontainers.image.title="trimtab" \
      org.opencontainers.image.description="An OpenAI-compatible gateway that makes LLM requests smaller, cheaper or unnecessary" \
      org.opencontainers.image.licenses="Apache-2.0"
# On a GPU, Triton builds its launchers with the C compiler that it finds.
ARG EXTRAS=""
RUN case ",${EXTRAS}," in *,gpu,*) apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/* ;; esac
# Both folders belong to the user that serves, and a new volume mounted on one takes that over.
RUN groupadd --system --gid 10001 trimtab \
    && useradd --system --uid 10001 --gid trimtab --home-dir /var/lib/trimtab --shell /usr/sbin/nologin trimtab \
    && install -d -o trimtab -g trimtab -m 0750 /var/lib/trimtab /var/cache/trimtab
COPY --from=build /opt/trimtab /opt/trimtab
ENV PATH=/opt/trimtab/bin:$PATH \
    HOME=/var/lib/trimtab \
    TRIMTAB_MODELS=/var/cache/trimtab \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1
USER 10001:10001
WORKDIR /var/lib/trimtab
EXPOSE 4000
STOPSIGNAL SIGTERM
# A minute and a half for the first start, which downloads the bundled model. http.client takes no notice of proxies.
HEALTHCHECK --interval=10s --timeout=5s --start-period=90s --retries=3 \
    CMD ["python3", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 4000, timeout=4); c.request('GET', '/health/readiness'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["trimtab"]
CMD ["serve", "--config", "/etc/trimtab/trimtab.yaml"]
