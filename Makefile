# Verbs for people and CI. Every verb works alone on a machine with Python >= 3.10 and a C++17 compiler.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0
WORKERS ?= 2

.PHONY: demo example-points study test test-sanitize test-sanitize-gpu test-triton build lint format bench docs site test-wheel test-fuzz test-gpu bench-gpu gpu-record clean

demo: $(VENV)/.demo
	$(BIN)/python -m pgconv.demo $(ARGS)

example-points: $(VENV)/.demo
	$(BIN)/python -m examples.digits_as_points $(ARGS)

# All runs of a study and its page, into results/; python -m pgconv study --list names them.
STUDY ?= digits-toy
study: $(VENV)/.demo
	$(BIN)/python -m pgconv study $(STUDY) $(ARGS)

test: $(VENV)/.test
	# One thread a worker: the workers share the cores, and tests of threads ask for theirs themselves.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) tests
	$(MAKE) test-sanitize-gpu
	$(BIN)/python -m pytest --doctest-modules pgconv --ignore=pgconv/_lib
	$(BIN)/python -m pytest --doctest-glob='*.md' README.md docs

# The native tests on a library built with the address and undefined-behaviour sanitizers, in a package of its own. Of the GPU
# kernels alone, one set of arguments a test, it is part of `make test`; every schedule of threads reads and writes the same places.
SANITIZED := build/sanitize
GPU_KERNEL_TESTS := emulator cuda_features cuda_points cuda_lists cuda_conv cuda_signals
test-sanitize: $(VENV)/.test
	rm -rf $(SANITIZED)/pgconv
	$(call sanitized,all,native_conv native_points bfloat16 point_rotations $(GPU_KERNEL_TESTS))
test-sanitize-gpu: $(VENV)/.test
	rm -rf $(SANITIZED)/pgconv
	$(call sanitized,pgconv_emulated,$(GPU_KERNEL_TESTS),--one-each -k "not schedule and not number_of_parts")

# Random calls of the native CPU code on a library built with the sanitizers: each kind of call for SECONDS, from call SEED on.
SECONDS ?= 12
SEED ?= 0
test-fuzz: export PGCONV_FUZZ_SECONDS = $(SECONDS)
test-fuzz: export PGCONV_FUZZ_SEED = $(SEED)
test-fuzz: $(VENV)/.test
	rm -rf $(SANITIZED)/pgconv
	$(call sanitized,pgconv_cpu,fuzz)

# $(call sanitized,what is built,tests,options). Libraries that are not built are the usual ones. The tests run from the
# package's folder: the package beside which Python starts is the one it imports. GCC's libraries in order: exceptions need theirs.
define sanitized
	mkdir -p $(SANITIZED)/pgconv
	cp -r pgconv/. $(SANITIZED)/pgconv
	rm -f $(SANITIZED)/pgconv/_lib/_emulated*.so
	if [ $(1) = all ]; then rm -f $(SANITIZED)/pgconv/_lib/*.so; fi
	if [ $(1) = pgconv_cpu ]; then rm -f $(SANITIZED)/pgconv/_lib/libpgconv_cpu.so; fi
	$(BIN)/cmake -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja -DPython_EXECUTABLE=$(abspath $(BIN))/python \
	  -DPGCONV_SANITIZE=ON -DPGCONV_LIB_DIR=$(abspath $(SANITIZED))/pgconv/_lib -B $(SANITIZED)/cmake -S .
	$(BIN)/cmake --build $(SANITIZED)/cmake --target $(1)
	cd $(SANITIZED) && OMP_NUM_THREADS=1 PGCONV_SANITIZED=1 ASAN_OPTIONS=detect_leaks=0 \
	  LD_PRELOAD="$(foreach library,asan ubsan stdc++,$$(gcc -print-file-name=lib$(library).so))" \
	  $(abspath $(BIN))/python -m pytest -n $(WORKERS) $(3) $(addprefix $(CURDIR)/tests/test_,$(addsuffix .py,$(2)))
endef

# The tests of Triton's kernels with another version of it, which is installed beside that of the environment.
TRITON ?= 3.5.0
build/triton-$(TRITON): | $(VENV)/.test
	$(BIN)/python -m pip install --quiet --no-deps --target $@ "triton==$(TRITON)"

test-triton: $(VENV)/.test build/triton-$(TRITON)
	PYTHONPATH=$(CURDIR)/build/triton-$(TRITON):$(CURDIR) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) tests/test_triton_*.py

build: $(VENV)/.built

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# NAME=point_conv for the convolution on points.
NAME = group_conv2d
bench: $(VENV)/.test
	$(BIN)/python -m benchmarks $(NAME) $(ARGS)

# One wheel, built once, in fresh environments of several Pythons.
PYTHONS ?= python3.10 python3.13
test-wheel: $(VENV)/.built
	rm -rf build/dist
	$(BIN)/python -m pip wheel --quiet --no-build-isolation --no-deps --wheel-dir build/dist .
	$(BIN)/python tests/wheel_check.py build/dist/*.whl $(PYTHONS) --torch "$(TORCH)"

# The documentation site in build/site, warnings as errors.
site: $(VENV)/.site
	$(BIN)/python -m sphinx -q -W --keep-going -b html -d build/doctrees docs build/site

$(VENV)/.site: $(VENV)/.test
	$(BIN)/python -m pip install --quiet "sphinx==8.1.3" "myst-parser==4.0.1" "furo==2025.12.19"
	touch $@

docs: $(VENV)/.test
	$(BIN)/python -m pytest --doctest-glob='*.md' README.md docs

# On a machine with a GPU and a Python that has torch with CUDA, cmake, ninja, pybind11 and pytest, and Triton: nothing is installed.
# Without a GPU the same tests run on the emulator and in Triton's interpreter. In parallel where pytest-xdist is there.
GPU_PYTHON ?= python3
GPU_ARCHITECTURES ?= 80;90a
GPU_WORKERS ?= 8
test-gpu:
	cmake -G Ninja -DPython_EXECUTABLE=$(shell command -v $(GPU_PYTHON)) "-DPGCONV_CUDA_ARCHITECTURES=$(GPU_ARCHITECTURES)" -B build/gpu -S .
	cmake --build build/gpu
	PYTHONPATH=$(CURDIR) OMP_NUM_THREADS=2 $(GPU_PYTHON) -m pytest -q \
	  $$($(GPU_PYTHON) -c "import xdist" 2>/dev/null && echo --numprocesses $(GPU_WORKERS)) tests/test_emulator.py tests/test_cuda_features.py \
	  tests/test_cuda_points.py tests/test_cuda_lists.py tests/test_cuda_conv.py tests/test_cuda_signals.py tests/test_cuda_backend.py \
	  tests/test_gpu_contract.py $(wildcard tests/test_triton_*.py) $(ARGS)

# Both operations, in bounded time: code is compiled for some cases only, and rounds end with the time. Results go to
# build/gpu. DEVICE=cpu rehearses without a GPU (with DTYPE=float32 on the native CPU code); ARGS, IMAGE_ARGS and POINT_ARGS
# overrule what stands here, such as --time-limit, --filter and --compile.
DEVICE ?= cuda
DTYPE ?= bfloat16
BENCH_GPU = PYTHONPATH=$(CURDIR) $(GPU_PYTHON) -m benchmarks
BENCH_GPU_ARGS = --device $(DEVICE) --dtype $(DTYPE) --rounds 5
bench-gpu:
	rm -f build/gpu/images.csv build/gpu/points.csv
	status=0; \
	$(BENCH_GPU) group_conv2d $(BENCH_GPU_ARGS) --time-limit 150 --plans all --compile "k3-H8-32x32,k7-H32-28x28" \
	  --csv build/gpu/images.csv $(ARGS) $(IMAGE_ARGS) || status=1; \
	$(BENCH_GPU) point_conv $(BENCH_GPU_ARGS) --time-limit 200 --plans all \
	  --compile "T(3)-B1-N4096-C32-O32-H32-sin,SE(2)-B1-N4096-C32-O32-H32-sin" \
	  --csv build/gpu/points.csv $(ARGS) $(POINT_ARGS) || status=1; \
	exit $$status

# Tests, benchmarks, and the record of all in benchmarks/results, of failures, too.
RECORD_ARGS ?=
gpu-record:
	-$(MAKE) test-gpu ARGS="--junitxml=$(CURDIR)/build/gpu/tests.xml"
	-$(MAKE) bench-gpu
	$(BENCH_GPU) record --junit build/gpu/tests.xml --csv build/gpu/images.csv build/gpu/points.csv $(RECORD_ARGS)

clean:
	rm -rf build dist *.egg-info pgconv/_lib/*.so demo-output .pytest_cache .ruff_cache

# Stamps: an environment is made once, the native library is rebuilt when its sources change.
NATIVE := $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh') CMakeLists.txt setup.py pyproject.toml

$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip "setuptools>=77,<90" "wheel<1"
	$(BIN)/python -m pip install --quiet "$(TORCH)" "numpy>=1.26,<3" "cmake>=3.25,<5" "ninja>=1.11,<2" "pybind11>=2.12,<4"
	touch $@

$(VENV)/.built: $(VENV)/.torch $(NATIVE)
	$(BIN)/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	touch $@

$(VENV)/.demo: $(VENV)/.built
	$(BIN)/python -m pip install --quiet "scikit-learn>=1.4,<2" "matplotlib>=3.8,<4" "tqdm>=4.66,<5"
	touch $@

$(VENV)/.test: $(VENV)/.demo
	$(BIN)/python -m pip install --quiet "pytest>=8,<10" "pytest-xdist>=3.5,<4" "mpmath>=1.3,<2" "scipy>=1.11,<2" "h5py>=3.8,<4" "ruff==0.17.6" "mypy>=1.15,<3"
	# Export of frozen networks.
	$(BIN)/python -m pip install --quiet "onnx>=1.18,<2" "onnxscript>=0.5,<1" "onnxruntime>=1.20,<2"
	# Triton's interpreter and compilers need no GPU; there are wheels for Linux alone. Registers differ between versions: one is tested.
	if [ "$$(uname -sm)" = "Linux x86_64" ]; then $(BIN)/python -m pip install --quiet "triton==3.6.0"; fi
	# What the GPU kernels were compiled to is read without a GPU.
	$(BIN)/python -m pip install --quiet "nvidia-cuda-cuobjdump>=13,<14" "nvidia-cuda-nvdisasm>=13,<14"
	touch $@
