SHELL := /bin/bash
PY := .venv/bin/python
.PHONY: install install-dev demo test e2e check bench docs lock

install:            ## what kubereach needs, and the command at .venv/bin/kubereach
	@scripts/install

install-dev:
	@scripts/install --dev

demo: install       ## a lab with agents and controller in it; prints the address of the matrix
	.venv/bin/kubereach lab up --name demo

test: install-dev   ## all tests but those on the real Kubernetes
	$(PY) -m tests $(TEST_ARGS)

e2e:                ## on a real Kubernetes: builds it (needs Go), then its own tests
	@scripts/install --dev --image --kubernetes
	$(PY) -m lab.kubernetes.build
	$(PY) -m tests.e2e.installed
	$(PY) -m tests --e2e $(TEST_ARGS)

check: install-dev  ## style, types, layers, generated documents
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy model agent controller cli lab
	.venv/bin/lint-imports
	$(PY) -m controller.diagnosis.document | diff docs/catalogue.md - || { echo 'error: docs/catalogue.md is old: make docs' >&2; exit 1; }
	.venv/bin/hadolint Dockerfile
	.venv/bin/yamllint --strict lab daemonset

bench: install-dev  ## figures, never a gate
	$(PY) -m tests.bench $(BENCH_ARGS)

docs: install-dev   ## the catalogue of causes, from the causes themselves
	$(PY) -m controller.diagnosis.document > docs/catalogue.md

lock:               ## renews both lock files
	.venv/bin/pip-compile -q --generate-hashes --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --strip-extras --allow-unsafe -o requirements.lock pyproject.toml
	.venv/bin/pip-compile -q --extra dev --generate-hashes --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --strip-extras --allow-unsafe -c requirements.lock -o requirements-dev.lock pyproject.toml
