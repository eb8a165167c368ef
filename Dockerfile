# The project on a CPU. From the registries alone: the base image is python:3.11-slim of Docker's, the packages are PyPI's.
#
#   docker build -t audio-gan-inversion .
#   docker run --rm -v "$PWD:/work" audio-gan-inversion audio-gan-invert my_clips --output results/mine
#
# With a GPU (NVIDIA's driver and container toolkit on the host): CUDA comes with the wheels, so the same base does.
#
#   docker build -t audio-gan-inversion:gpu --build-arg EXTRA="tensorflow[and-cuda]==2.21.0" .
#   docker run --rm --gpus all -v "$PWD:/work" audio-gan-inversion:gpu audio-gan-train-encoder data --width 64
FROM python:3.11-slim

ARG EXTRA=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1

WORKDIR /opt/audio-gan-inversion
# The packages first: a change of the code builds the last two steps again, not this one of 800 MB.
COPY requirements.txt ./
RUN python -m pip install -r requirements.txt ${EXTRA:+"$EXTRA"}
COPY . .
RUN python -m pip install --no-deps . && useradd --create-home --uid 1000 user

USER 1000
WORKDIR /work
CMD ["audio-gan-invert", "--help"]
