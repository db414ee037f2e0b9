# Two doors for a newcomer: `make demo` and `make test`. Both set up .venv by themselves.
#
#   make demo               the whole path, from drawn camera images to a scored report (6 to 8 minutes)
#   make demo SIZE=tiny     the same steps, each as small as it gets (under 90 s)
#   make test               lint, types, import contracts, tests, README commands (under 10 minutes)
#   make readme             every README command, word for word
#   make test-ros           the package's tests under a real, sourced ROS 2
#   make bench-gate         does a decision take longer than the committed share of a reference's time? (30 s)
#   make world-check        does looking pay in the synthetic world? trains and judges (about 16 minutes)
#   make clean              remove .venv, the demo's runs and every build product
#
# PYTHON=python3.12 chooses the interpreter of a new .venv; without it the first that works is used.

SIZE ?= full
PYTHON ?=

VENV := .venv
BIN := $(VENV)/bin
# Written last, so a set-up that was broken off has none. They hold the path of the checkout,
# because a .venv does not survive being moved.
READY := $(VENV)/.ready
READY_TEST := $(VENV)/.ready-test
# By name, not as an extra of extras: pip then sees numpy < 2 before it picks a numpy.
TEST_EXTRAS := embedded,export,gguf,nuscenes,ray,text,test
DEMO_OUT_full := runs/demo
DEMO_OUT_tiny := runs/demo-tiny

$(shell { [ "$$(cat $(READY) 2>/dev/null)" = "$(CURDIR)" ] && $(BIN)/python -c '' 2>/dev/null; } \
  || rm -f $(READY) $(READY_TEST))

.PHONY: demo test readme test-ros bench-gate world-check clean setup setup-test
.DELETE_ON_ERROR:

demo: $(READY)
	@$(BIN)/python -m clkd_core.cli demo --size $(SIZE) --out $(or $(DEMO_OUT_$(SIZE)),runs/demo-$(SIZE))

test: $(READY_TEST)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest

readme: $(READY_TEST)
	CLKD_README=full $(BIN)/pytest -s -v test/core/test_readme.py

test-ros: $(READY_TEST)
	@$(BIN)/python -c 'import rclpy' || { \
	  echo "make test-ros: rclpy cannot be imported by $(BIN)/python: source ROS 2 first, and let" \
	    "PYTHON be the one ROS 2 was built for (see README)" >&2; exit 1; }
	CLKD_REQUIRE_ROS=1 ROS_PYTHON_CHECK_FIELDS=1 $(BIN)/pytest test/ros
	@for file in test/ros/launched/*.py; do \
	  echo "launch_test $$file"; \
	  PATH="$(CURDIR)/$(BIN):$$PATH" PYTHONPATH="$(CURDIR)/test:$$PYTHONPATH" \
	    $(BIN)/python -m launch_testing.launch_test $$file || exit 1; done

bench-gate: $(READY)
	$(BIN)/python -m clkd_core.cli bench gate config/bench/gate.json

world-check: $(READY)
	$(BIN)/python -m clkd_core.distill config/train/world-check.yaml --resume
	$(BIN)/python -m clkd_core.cli world check runs/world-check

setup: $(READY)
setup-test: $(READY_TEST)

# Both stamps go before anything is changed: whatever is broken off is then built from scratch.
$(READY): pyproject.toml setup.py
	$(call install,.[embedded])
	@printf '%s\n' '$(CURDIR)' > $(READY)

$(READY_TEST): pyproject.toml setup.py
	$(call install,.[$(TEST_EXTRAS)])
	@printf '%s\n' '$(CURDIR)' > $(READY)
	@printf '%s\n' '$(CURDIR)' > $(READY_TEST)

USABLE := import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info < (3, 14))
define install
@for python in $(or $(PYTHON),python3.12 python3.11 python3.10 python3.13 python3); do \
  if $$python -c '$(USABLE)' >/dev/null 2>&1; then found=$$python; break; fi; done; \
if [ -z "$$found" ]; then \
  echo "no usable Python: 3.10 to 3.13 with its venv module is needed;" \
    "on Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 1; fi; \
if [ -e $(READY) ]; then echo "bringing $(VENV) up to date"; else \
  echo "setting up $(VENV) with $$found: a few minutes, about 6 GB"; \
  $$found -m venv --clear $(VENV); fi
@rm -f $(READY) $(READY_TEST)
$(BIN)/python -m pip install --disable-pip-version-check --editable '$(1)'
endef

clean:
	rm -rf $(VENV) runs/demo runs/demo-tiny runs/readme runs/world-check build dist *.egg-info
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
