# `make convert` and `make test` are all that a fresh machine with Python 3.11 and make needs.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

LOWEST := .venv-lowest
RELEASED := .venv-released
DOCS := .venv-docs

.PHONY: convert test test-all test-lowest check wheel sbom docs clean

convert: $(STAMP) ## Run the main job on the embedded default recipe.
	$(BIN)/edgeres convert

test: $(STAMP) ## Everything that CI runs: format, lint, types, tests.
	scripts/check $(BIN)

test-all: $(STAMP) ## The same with the slow tests, and on emulated Arm CPUs where apt has qemu.
	-$(BIN)/python scripts/arm64
	EDGERES_TEST_ALL=1 scripts/check $(BIN)

# What each dependency is used for, tested at the lowest version that pyproject.toml allows.
LOWEST_TESTS := tests/test_package.py tests/recipe tests/system/test_store.py \
	tests/system/test_child.py tests/system/test_extras.py tests/system/test_environment.py \
	tests/backends/test_onnxruntime.py tests/backends/test_openvino.py \
	tests/data/test_decode.py tests/data/test_preprocess.py tests/data/test_npz.py \
	tests/data/test_sound.py tests/modules/test_keras.py \
	tests/quantization/test_scales.py tests/exporting/test_to_onnx.py \
	tests/pruning/test_groups.py tests/models/test_checkpoint.py \
	tests/bundling/test_bad_registry.py tests/devices/test_bad_hosts.py \
	tests/devices/test_workers.py tests/tuning/test_record.py tests/tuning/test_settings.py \
	tests/report/test_markdown.py tests/report/test_mlflow_export.py tests/report/test_page.py \
	tests/benchmarking/test_loadgen.py tests/docs/test_links.py tests/cli/test_usage.py tests/cli/test_console.py

test-lowest: $(LOWEST)/.installed ## Tests with every dependency at its lowest version.
	$(LOWEST)/bin/python -m pytest -q -n 2 --native-only $(LOWEST_TESTS)

wheel: $(STAMP) ## Wheel and source archive in dist/, built twice with equal bytes.
	$(BIN)/python scripts/build_twice.py

sbom: $(RELEASED)/.installed ## What edgeres[all] brings, in CycloneDX form, in dist/sbom.json.
	mkdir -p dist
	$(RELEASED)/tool/bin/cyclonedx-py environment --pyproject pyproject.toml --mc-type library \
		--output-reproducible --output-format JSON --output-file dist/sbom.json $(RELEASED)/bin/python

docs: $(DOCS)/.installed ## The documents as a site, in build/docs; a dead link or a warning ends it.
	$(DOCS)/bin/python scripts/docs_site.py build/docs-source
	$(DOCS)/bin/zensical build --strict --clean

check: test

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --progress-bar on "torch==2.13.0"
	$(BIN)/python -m pip install --quiet --progress-bar on --editable ".[all,dev]"
	@touch $(STAMP)

$(LOWEST)/.installed: pyproject.toml scripts/lowest.py
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet "torch==2.13.0" packaging
	$(LOWEST)/bin/python scripts/lowest.py > $(LOWEST)/floors.txt
	$(LOWEST)/bin/python -m pip install --quiet --constraint $(LOWEST)/floors.txt --editable ".[all,dev]"
	@touch $@

$(RELEASED)/.installed: pyproject.toml
	$(PYTHON) -m venv $(RELEASED)
	$(RELEASED)/bin/python -m pip install --quiet "torch==2.13.0"
	$(RELEASED)/bin/python -m pip install --quiet ".[all]"
	$(PYTHON) -m venv $(RELEASED)/tool
	$(RELEASED)/tool/bin/python -m pip install --quiet "cyclonedx-bom>=7.4,<8"
	@touch $@

$(DOCS)/.installed: pyproject.toml
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet ".[docs]"
	@touch $@

clean:
	rm -rf $(VENV) $(LOWEST) $(RELEASED) $(DOCS) runs dist build
