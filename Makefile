# Every target makes the environment when it is missing, and nothing that is done is repeated.
VENV ?= .venv
KIND ?= $(shell nvidia-smi -L > /dev/null 2>&1 && echo gpu || echo cpu)
READY := $(VENV)/.ready-$(KIND)
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help report test bench lab serve doctor lock pictures clean

help:
	@echo "make report   run the whole workbook and write outputs/latest/report.html"
	@echo "make lab      JupyterLab on the notebooks, with a server running"
	@echo "make serve    the embedded server alone, to explore against"
	@echo "make doctor   what is wrong with this machine, and the remedy"
	@echo "make test     all tests"
	@echo "make bench    this client beside the others, measured on a server with known timing"
	@echo "make lock     newer versions and hashes of all packages, within the pins of pyproject.toml"
	@echo "make pictures the pictures of README.md, taken of the newest run"
	@echo "make clean    remove the environment and unpublished outputs"
	@echo "More arguments: make report ARGS='--profile quick --server http://127.0.0.1:8000'"

$(READY): pyproject.toml scripts/install.sh requirements/$(KIND).lock
	@scripts/install.sh $(VENV) $(KIND)
	@touch $@

report: $(READY)
	@$(VENV)/bin/workbook run $(ARGS)

lab: $(READY)
	@$(VENV)/bin/workbook lab $(ARGS)

serve: $(READY)
	@$(VENV)/bin/workbook serve $(ARGS)

doctor: $(READY)
	@$(VENV)/bin/workbook doctor $(ARGS)

test: $(READY)
	@scripts/test.sh $(VENV)/bin/python $(ARGS)

bench: $(READY)
	@$(VENV)/bin/python -m benchmarks $(ARGS)

lock:
	@scripts/lock.sh

pictures: $(READY)
	@PYTHONPATH=. $(VENV)/bin/python scripts/pictures.py $(ARGS)

clean:
	rm -rf $(VENV) benchmarks/.envs
	find outputs -mindepth 1 -maxdepth 1 ! -name published -exec rm -rf {} +
