# Strict shell, after https://tech.davis-hansson.com/p/make/
SHELL := bash
.DELETE_ON_ERROR:
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := all
MAKEFLAGS += --warn-undefined-variables
MAKEFLAGS += --no-builtin-rules
MAKEFLAGS += --no-print-directory

# What may be given on the command line, as in `make sim YEARS=100 FROM=1000`.
ONCE ?=
YEARS ?=
SEED ?=
FROM ?=
LEDGER ?=
TIME ?= 30s
FUZZ ?= .
BENCH ?= .
BENCHTIME ?= 1s
RUN ?= .
MODEL ?= .

BIN := bin/holdfast
WIRE := proto/wire-v1.binpb
# No tag, or no .git at all, is no reason not to build. A .git above this
# directory is somebody else's, so it is not asked.
VERSION := $(shell if [ -e .git ]; then git describe --tags --always --dirty 2>/dev/null || echo unknown; else echo unknown; fi)
# buf and golangci-lint live in modules of their own: as tools of the main
# module they would decide its versions of protobuf and much else.
BUF := go tool -modfile=tools/buf/go.mod buf
GOLANGCI := go tool -modfile=tools/lint/go.mod golangci-lint
# -count=1: tests that start real processes or read the whole tree depend on
# more than go's test cache can see.
GOTEST := go test -count=1

.PHONY: all
all: build test lint ## Build, test and lint (default)

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk 'BEGIN {FS = ":.*## "} {printf "%-15s %s\n", $$1, $$2}'

.PHONY: build
build: ## Make bin/holdfast, one static binary
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-X main.version=$(VERSION)' -o $(BIN) ./cmd/holdfast

.PHONY: cross
cross: ## Compile for macOS too, where master and CLI must run
	CGO_ENABLED=0 GOOS=darwin GOARCH=arm64 go build -trimpath -buildvcs=false -o /dev/null ./cmd/holdfast

.PHONY: run
run: build ## Start holdfast, build this repository with it, stay up; ONCE=1: end with the build
	@ONCE='$(ONCE)' examples/run.sh

.PHONY: deps
deps: ## Install what the tests need and is missing (Debian, as root), else say what to install
	@tools/deps.sh

# The simulation runs twice: with the race detector as one package among all,
# shortened, then without it at full length. The detector makes each process
# sleep for 1 s before it exits if it is not told otherwise.
.PHONY: test
test: deps ## Run all tests, with the race detector where gcc is (under 15 minutes)
	race=$$(tools/race.sh); \
	if [ -z "$$race" ]; then exec $(GOTEST) -timeout 12m ./...; fi; \
	CGO_ENABLED=1 GORACE=atexit_sleep_ms=20 $(GOTEST) $$race -timeout 12m ./...; \
	SIM_TIMEOUT=12m tools/sim.sh

.PHONY: test-short
test-short: ## Run the quick tests, from go's cache where nothing changed
	go test -short ./...

.PHONY: test-slow
test-slow: deps ## Run all tests with more rounds and longer schedules (HOLDFAST_SLOW=1)
	HOLDFAST_SLOW=1 $(GOTEST) -timeout 60m ./...

.PHONY: test-crash
test-crash: deps ## Run the tests that kill a writer and look at what it left
	HOLDFAST_SLOW=1 $(GOTEST) -timeout 60m -run 'Crash' ./...

.PHONY: test-e2e
test-e2e: deps ## Run the end-to-end tests with real processes; RUN=PATTERN
	$(GOTEST) -v -timeout 30m -run '$(RUN)' ./cmd/internal/e2e/...

.PHONY: sim
sim: ## Run the simulation; RUN=TestSimSparse|Dense|Wild, YEARS=N slave-years, FROM=SEED, SEED=N to repeat one, LEDGER=FILE to go on later
	@tools/sim.sh $(if $(YEARS)$(SEED)$(FROM)$(LEDGER)$(filter-out .,$(RUN)),-v -run '$(RUN)') \
		$(if $(YEARS),-sim.years=$(YEARS)) $(if $(SEED),-sim.seed=$(SEED)) \
		$(if $(FROM),-sim.from=$(FROM)) $(if $(LEDGER),-sim.ledger=$(abspath $(LEDGER)))

.PHONY: model
model: deps ## Search the models of the protocol, also without each rule; MODEL=PATTERN
	@MODEL='$(MODEL)' tools/model.sh

.PHONY: fuzz
fuzz: ## Fuzz each target in turn; TIME=30s each, FUZZ=PATTERN
	@tools/fuzz.sh '$(TIME)' '$(FUZZ)'

.PHONY: figures
figures: deps ## Measure again what docs/promises.md quotes (some minutes)
	@tools/figures.sh

.PHONY: bench
bench: ## Run the benchmarks, one package at a time (some minutes); BENCH=PATTERN, BENCHTIME=1s
	go test -p 1 -timeout 0 -run '^$$' -bench '$(BENCH)' -benchtime '$(BENCHTIME)' -benchmem ./...

.PHONY: lint
lint: ## gofmt, go vet, staticcheck, golangci-lint
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then echo "gofmt would change:"; echo "$$unformatted"; exit 1; fi
	go vet ./...
	go vet -tags failpoint ./proto/failpoint
	go tool staticcheck ./...
	$(GOLANGCI) run ./...

.PHONY: generate
generate: ## Generate the Go code of proto/
	$(BUF) generate

.PHONY: checkgenerate
checkgenerate: ## Check that the generated code in the tree is fresh
	@tmp=$$(mktemp -d); trap 'rm -rf "$$tmp"' EXIT; \
	mkdir -p "$$tmp/want" "$$tmp/have"; \
	$(BUF) generate -o "$$tmp/want"; \
	find proto -name '*.pb.go' | while read -r f; do mkdir -p "$$tmp/have/$$(dirname "$$f")"; cp "$$f" "$$tmp/have/$$f"; done; \
	diff -r -u "$$tmp/have" "$$tmp/want" || { echo "generated code is not fresh: run make generate"; exit 1; }; \
	echo "generated code is fresh"

.PHONY: buf-lint
buf-lint: ## Lint and format-check the .proto files
	$(BUF) lint
	$(BUF) format -d --exit-code

.PHONY: buf-breaking
buf-breaking: ## Check that the wire still understands what was released
	@[ -e $(WIRE) ] || { echo "$(WIRE) is missing: it is committed, get it back (a new one would forgive every break)"; exit 1; }
	$(BUF) breaking --against $(WIRE)

# The image is what a break is judged against, so it only ever grows: renew it
# after additions, in the commit that makes them.
.PHONY: wire-image
wire-image: ## Renew the committed image of the wire, after additions only
	@if [ -e $(WIRE) ]; then $(BUF) breaking --against $(WIRE); fi
	$(BUF) build --exclude-source-info -o $(WIRE)

.PHONY: tidy-check
tidy-check: ## Check that go.mod and go.sum are tidy, those of the tools too
	@for dir in . tools/buf tools/lint; do echo "go mod tidy -diff in $$dir"; (cd $$dir && go mod tidy -diff); done

.PHONY: smoke
smoke: build ## Try each command of the CLI, also those that must fail
	@.ci/smoke

.PHONY: clean
clean: ## Remove what the targets above made
	rm -rf bin .tmp
