# Tollgate: `make help` lists what can be done.
SHELL := bash
GO ?= go
SERVICES := .cache/services
# How many Kafkas and Redises: so many tests of the whole program run beside each other. They mostly wait.
SETS ?= 3
# What has tests that use Kafka or Redis (cmd/tollgate/services_test.go holds this list).
INTEGRATED := ./aggregator ./anomaly ./billing ./cmd/tollgate ./collector ./quota ./schemas/stream
DEMO_ARGS ?=
BENCH_ARGS ?=
FUZZTIME ?= 20s
AUDIT_EVENTS ?= 10000000
EXPLORED := ./aggregator ./billing ./cmd/tollgate
SEEDS ?= 50
OUTAGE ?= 60s
PROFILE := cmd/tollgate/hot.pgo
ROLES ?= collector aggregator quota anomaly billing
MODEL ?= 2000
SEED ?= 1
# Histories of the whole house at once. Not fewer: they mostly wait. Not more: two cores are busy with these.
PARALLEL ?= 8
# Where histories keep their tables: in memory, where it has room.
MEMORY := $(shell df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 && $$4 > 4e6 { print "/dev/shm" }')

.DEFAULT_GOAL := help
.PHONY: help build demo test check crashmatrix explore soak soak-long bench bench-audit bench-path bench-scale bench-memory bench-late bench-store benchpath mutate fuzz services services-stop test-services outages profile run clean vuln proto

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

build: ## compile bin/tollgate
	@mkdir -p bin; echo "compiling bin/tollgate (the first time takes some minutes)"
	$(GO) build -trimpath -pgo=$(PROFILE) -o bin/tollgate ./cmd/tollgate

demo: build ## play a month of traffic on embedded parts, close it, report, keep serving (DEMO_ARGS=--exit ends after the report)
	./bin/tollgate demo $(DEMO_ARGS)

test: ## run every test with the race detector, on embedded parts; what is explored is explored in full without it
	$(GO) test -race -timeout 40m ./...
	$(GO) test -timeout 20m -run '^TestExplore' $(EXPLORED)

explore: ## walk every order of the steps of the counting core and of a close, deeper than `make test` does
	TOLLGATE_EXPLORE=deep $(GO) test -v -count=1 -timeout 2h -run '^TestExplore' $(EXPLORED) | grep -v '^      '

check: ## gofmt, go vet and staticcheck
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$unformatted" || { echo "gofmt -w $$unformatted"; exit 1; }
	$(GO) vet ./...
	$(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...

vuln: ## govulncheck, where its database can be reached
	$(GO) run golang.org/x/vuln/cmd/govulncheck@latest ./...

crashmatrix: ## play every cell of the crash matrix and keep the table in docs/crashmatrix.md (CRASHMATRIX=part of a name plays some)
	CRASHMATRIX="$${CRASHMATRIX:-all}" CRASHMATRIX_TABLE=$${CRASHMATRIX_TABLE:-$(CURDIR)/docs/crashmatrix.md} \
	$(GO) test -count=1 -timeout 3h -v -run '^TestIntegrationCrashMatrix$$' ./cmd/tollgate

bench: ## run every benchmark once, three seconds each
	$(GO) test -run '^$$' -bench . -benchtime 3s -benchmem ./...

benchpath: build
	$(GO) build -trimpath -pgo=$(PROFILE) -o bin/benchpath ./cmd/tollgate/benchpath

# Where the profile says in which folder it was taken, dots of the same number take its place.
profile: benchpath ## take the processor profile that `make build` optimises the hot path by
	rm -rf .cache/profiles; mkdir -p .cache/profiles/native .cache/profiles/kong
	./bin/benchpath -only catchup,steady -steady 30s -profiles .cache/profiles/native
	./bin/benchpath -only catchup -events 1000000 -format kong -profiles .cache/profiles/kong
	$(GO) tool pprof -proto .cache/profiles/*/*.pprof 2>/dev/null | gunzip | \
	  LC_ALL=C sed "s#$(CURDIR)#$$(printf '%s' '$(CURDIR)' | tr -c / .)#g" | gzip -n9 > .cache/profiles/hot.pgo
	mv .cache/profiles/hot.pgo $(PROFILE)

bench-path: benchpath ## measure the whole path: catch-up, steady traffic, cost of exactness, a reference worker (BENCH_ARGS=-apache, -h)
	./bin/benchpath $(BENCH_ARGS)

bench-scale: benchpath ## measure 2 to 16 shards, and 1, 2 and 4 processes of collector and aggregator (BENCH_ARGS=-h)
	./bin/benchpath scale $(BENCH_ARGS)

bench-memory: benchpath ## measure the memory of each role behind a backlog of 1 and of 20 million events (10 GB of disk)
	./bin/benchpath scale -runs 4x1x1000000,4x1x20000000 $(BENCH_ARGS)

bench-late: benchpath ## measure live freshness beside the spool of a month at once, and a trickle of late events (BENCH_ARGS=-h)
	./bin/benchpath late $(BENCH_ARGS)

bench-store: benchpath ## fill a store with 1, 10 and 100 million events and ask it while traffic comes in (25 GB; BENCH_ARGS=-h)
	./bin/benchpath store $(BENCH_ARGS)

mutate: ## remove each safety rule in turn and show that a test turns red for it (RULE=part of a name tries some)
	$(GO) run ./cmd/tollgate/mutate -rule '$(RULE)'

bench-audit: ## audit AUDIT_EVENTS events with planted faults: found within a minute on two idle cores
	TOLLGATE_AUDIT_EVENTS=$(AUDIT_EVENTS) $(GO) test -v -count=1 -timeout 60m -p 1 \
	  -run '^Test(Integration)?AuditOfMany$$' ./aggregator ./cmd/tollgate

fuzz: ## run every fuzz test for FUZZTIME
	@set -e; for file in $$(grep -rlE '^func Fuzz' --include='*_test.go' .); do \
	  for name in $$(grep -oE '^func Fuzz[A-Za-z0-9_]*' $$file | sed 's/^func //'); do \
	    echo "== $$name $$(dirname $$file)"; $(GO) test -run '^$$' -fuzz "^$$name$$" -fuzztime $(FUZZTIME) $$(dirname $$file); \
	  done; done

soak: ## play seeded histories from SEED on: SEEDS of the house and of its tables on the engine, MODEL on a model
	TOLLGATE_SOAK_SEED=$(SEED) TOLLGATE_SOAK_ENGINE=$(SEEDS) TOLLGATE_SOAK_MODEL=$(MODEL) \
	  TOLLGATE_SOAK_PARALLEL=$(PARALLEL) TOLLGATE_TEST_DIR=$(MEMORY) \
	  $(GO) test -count=1 -timeout 3h -run '^(TestModelHistories|TestModelAgrees|TestIntegrationSoak)$$' -p 1 ./aggregator \
	  ./cmd/tollgate

soak-long: ## the same with progress, in slices; stopped, it goes on where it was: SEEDS of the house, MODEL on a model
	SEED=$(SEED) SEEDS=$(SEEDS) MODEL=$(MODEL) PARALLEL=$(PARALLEL) TOLLGATE_TEST_DIR=$(MEMORY) \
	  deploy/services/soak.sh $(CURDIR)/.cache/soak

services: ## fetch and start redis-server and Apache Kafka, SETS times, on loopback, under .cache/services
	deploy/services/services.sh start $(SERVICES) $(SETS)

services-stop: ## end what `make services` started
	deploy/services/services.sh stop $(SERVICES)

# The whole program runs here without the race detector, which costs minutes: `make test` has it on the same tests.
test-services: services ## run the tests that need Kafka or Redis on the real servers, one package after the other
	set -a; eval "$$(deploy/services/services.sh env $(SERVICES) $(SETS))"; set +a; \
	CI=true $(GO) test -race -timeout 20m -count=1 -p 1 -run '^TestIntegration' $(filter-out ./cmd/tollgate,$(INTEGRATED)) && \
	CI=true $(GO) test -timeout 40m -count=1 -parallel $(SETS) -run '^TestIntegration' $(filter ./cmd/tollgate,$(INTEGRATED))

outages: ## take Kafka, Redis and ClickHouse away under load for OUTAGE each, one process for each of ROLES (or "all")
	deploy/services/services.sh fetch
	mkdir -p .cache; rm -f .cache/outages.md
	TOLLGATE_OUTAGE=$(OUTAGE) TOLLGATE_OUTAGE_ROLES="$(ROLES)" TOLLGATE_OUTAGE_TABLE=$(CURDIR)/.cache/outages.md \
	  $(GO) test -v -count=1 -timeout 60m -run '^TestIntegrationOutages$$' ./cmd/tollgate; \
	  code=$$?; cat .cache/outages.md; exit $$code

run: build ## run every role in one process on ./tollgate-data
	./bin/tollgate all

clean: ## remove what was built; ./tollgate-data stays
	rm -rf bin

proto: ## generate schemas/wire from schemas/usage_event.proto (needs protoc)
	GOBIN=$(CURDIR)/.cache/bin $(GO) install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
	GOBIN=$(CURDIR)/.cache/bin $(GO) install github.com/planetscale/vtprotobuf/cmd/protoc-gen-go-vtproto@v0.6.0
	PATH="$(CURDIR)/.cache/bin:$$PATH" protoc -I schemas --go_out=. --go_opt=module=tollgate --go-vtproto_out=. \
	  --go-vtproto_opt=module=tollgate,features=marshal+unmarshal+unmarshal_unsafe+size usage_event.proto
