# CLKD Drive on ROS 2, with launch and replay inside. docs/ros2.md, "Docker", explains the words.
#
#   docker build -t clkd-drive .
#   docker run --rm -v /path/to/bags:/bags:ro -v "$PWD/runs:/ws/runs" clkd-drive \
#     ros2 launch clkd_ros evaluate_bag.launch.py bag:=/bags/x out:=/ws/runs/x
#
# On a vehicle's network, on its GPU (needs the NVIDIA Container Toolkit):
#   docker run --rm --gpus all --network host --ipc host clkd-drive
#
# --build-arg ROS_DISTRO=humble                                           another ROS 2
# --build-arg TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu        no CUDA, several GB less
ARG ROS_DISTRO=jazzy
FROM ros:${ROS_DISTRO}
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /ws

# What package.xml names, from Ubuntu and ROS; a screen is elsewhere.
COPY package.xml src/clkd-drive/
# hadolint ignore=DL3008
RUN echo 'APT::Install-Recommends "false";' > /etc/apt/apt.conf.d/99no-recommends \
    && apt-get update \
    && apt-get install --yes --no-install-recommends python3-pip python3-venv \
    && rosdep update --rosdistro "$ROS_DISTRO" \
    && rosdep install --from-paths src --ignore-src --rosdistro "$ROS_DISTRO" -y \
        --skip-keys "rviz2 compressed_image_transport" \
    && rm -rf /var/lib/apt/lists/*

# What pyproject.toml names, from PyPI, into an environment that sees ROS's packages. Without our
# sources pip installs only the dependencies and the word `clkd`; the code comes from colcon below,
# and editing it does not fetch torch again. The two pins: docs/ros2.md, "When versions clash".
ARG TORCH_INDEX_URL=
ENV VIRTUAL_ENV=/ws/.venv PATH=/ws/.venv/bin:$PATH
COPY pyproject.toml setup.py README.md src/clkd-drive/
# hadolint ignore=DL3013
RUN python3 -m venv --system-site-packages .venv \
    && touch .venv/COLCON_IGNORE \
    && pip install --no-cache-dir ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} \
        "numpy<2" "opencv-python-headless<4.12" ./src/clkd-drive

COPY . src/clkd-drive/
RUN . "/opt/ros/$ROS_DISTRO/setup.bash" && colcon build && rm -rf build log

# Any user may run it (docker run --user), so logs go where any user may write.
ENV ROS_LOG_DIR=/tmp/ros_log MPLCONFIGDIR=/tmp/matplotlib
STOPSIGNAL SIGINT
ENTRYPOINT ["/bin/bash", "-c", "source /ws/install/setup.bash && exec \"$@\"", "entrypoint"]
CMD ["ros2", "launch", "clkd_ros", "dual_system.launch.py"]
