# Tollgate: `make help` lists what can be done.
SHELL := bash
GO ?= go
SERVICES := .cache/services
DEMO_ARGS ?=
FUZZTIME ?= 20s

.DEFAULT_GOAL := help
.PHONY: help build demo test check bench fuzz services services-stop test-services run clean vuln proto

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

build: ## compile bin/tollgate
	@mkdir -p bin; echo "compiling bin/tollgate (the first time takes some minutes)"
	$(GO) build -trimpath -o bin/tollgate ./cmd/tollgate

demo: build ## play a month of traffic on embedded parts, close it, report, keep serving (DEMO_ARGS=--exit ends after the report)
	./bin/tollgate demo $(DEMO_ARGS)

test: ## run every test with the race detector, on embedded parts
	$(GO) test -race -timeout 20m ./...

check: ## gofmt, go vet and staticcheck
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$unformatted" || { echo "gofmt -w $$unformatted"; exit 1; }
	$(GO) vet ./...
	$(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...

vuln: ## govulncheck, where its database can be reached
	$(GO) run golang.org/x/vuln/cmd/govulncheck@latest ./...

bench: ## run every benchmark once, three seconds each
	$(GO) test -run '^$$' -bench . -benchtime 3s -benchmem ./...

fuzz: ## run every fuzz test for FUZZTIME
	@set -e; for file in $$(grep -rlE '^func Fuzz' --include='*_test.go' .); do \
	  for name in $$(grep -oE '^func Fuzz[A-Za-z0-9_]*' $$file | sed 's/^func //'); do \
	    echo "== $$name $$(dirname $$file)"; $(GO) test -run '^$$' -fuzz "^$$name$$" -fuzztime $(FUZZTIME) $$(dirname $$file); \
	  done; done

services: ## fetch and start redis-server and Apache Kafka on loopback, under .cache/services
	deploy/services/services.sh start $(SERVICES)

services-stop: ## end what `make services` started
	deploy/services/services.sh stop $(SERVICES)

test-services: services ## run the tests that need Kafka or Redis on the real servers, one package after the other
	set -a; eval "$$(deploy/services/services.sh env $(SERVICES))"; set +a; \
	$(GO) test -race -timeout 10m -count=1 -p 1 ./collector ./quota && \
	$(GO) test -race -timeout 20m -count=1 -p 1 -run Integration ./schemas/stream ./cmd/tollgate

run: build ## run every role in one process on ./tollgate-data
	./bin/tollgate all

clean: ## remove what was built; ./tollgate-data stays
	rm -rf bin

proto: ## generate schemas/wire from schemas/usage_event.proto (needs protoc)
	GOBIN=$(CURDIR)/.cache/bin $(GO) install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
	GOBIN=$(CURDIR)/.cache/bin $(GO) install github.com/planetscale/vtprotobuf/cmd/protoc-gen-go-vtproto@v0.6.0
	PATH="$(CURDIR)/.cache/bin:$$PATH" protoc -I schemas --go_out=. --go_opt=module=tollgate --go-vtproto_out=. \
	  --go-vtproto_opt=module=tollgate,features=marshal+unmarshal+unmarshal_unsafe+size usage_event.proto
