# Parallax. `make help` says what there is.

CARGO ?= cargo
# Where Slurm's headers are (slurm/spank.h); the plugin fits the Slurm release they are of.
SLURM_INCLUDE ?= /usr/include
DESTDIR ?=
PREFIX ?= /usr
SYSCONFDIR ?= /etc
UNITDIR ?= $(PREFIX)/lib/systemd/system
# The plugin has a target directory of its own: what it is built from depends on Slurm's headers.
PLUGIN_TARGET = target/plugin

.PHONY: help all products plugin test unit-test bench soak demo lint install dependencies clean

help:
	@echo 'make all        build the products and the plugin (needs Slurm'\''s headers: SLURM_INCLUDE=DIR)'
	@echo 'make install    install them (DESTDIR, PREFIX, SYSCONFDIR, UNITDIR)'
	@echo 'make test       all tests, on real Slurm clusters of namespaces; as root, installs what it needs by apt;'
	@echo '                T=PATTERN runs those privileged and cluster tests that have PATTERN in their name'
	@echo 'make unit-test  the tests that anyone can run'
	@echo 'make bench      measure, side by side; as root'
	@echo 'make soak       the large fixed loads, then random steps and faults for ten minutes (SOAK_MINUTES); as root'
	@echo 'make demo       see it work on a cluster of namespaces; as root, installs what it needs by apt'
	@echo 'make lint       format and lints'

all: products plugin

products:
	$(CARGO) build --release --locked --bins

# Its part for steps with an image has a profile of its own: see Cargo.toml.
plugin: export BINDGEN_EXTRA_CLANG_ARGS = -I$(SLURM_INCLUDE)
plugin:
	$(CARGO) build --profile plugin --locked --package spank-parallax --target-dir $(PLUGIN_TARGET)
	$(CARGO) build --profile plugin-step --locked --package spank-parallax-step --target-dir $(PLUGIN_TARGET)

dependencies:
	tests/install-dependencies

unit-test:
	$(CARGO) test --locked --quiet --lib --bins

# Unit tests first, for everyone; then those that need root and say so. With T=PATTERN only the latter, by name.
T ?=
test: dependencies
ifeq ($(T),)
	$(MAKE) unit-test
	$(CARGO) test --locked --quiet --package integration-tests --package parallax-bench --package parallax-soak --lib
endif
	$(CARGO) test --locked --package integration-tests --test integration -- $(T)

bench: dependencies
	$(CARGO) run --locked --release --quiet --package parallax-bench -- $(BENCH_ARGS)

# The fixed loads of the test suite, at full size.
LOADS = cluster::faults::load cluster::daemon::many_leases cluster::calls::thousands

# SOAK_MINUTES says how long, SOAK_ARGS='--seed=…' repeats the choices of an earlier one.
soak: dependencies
	set -e; for load in $(LOADS); do \
		PARALLAX_TEST_LOAD=large $(CARGO) test --locked --quiet --package integration-tests --test integration -- "$$load"; \
	done
	$(CARGO) run --locked --quiet --package parallax-soak -- $(SOAK_ARGS)

demo: dependencies
	tests/demo

lint: export BINDGEN_EXTRA_CLANG_ARGS = -I$(SLURM_INCLUDE)
lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --exclude spank-parallax --exclude spank-parallax-step --all-targets \
		-- -D warnings
	$(CARGO) clippy --locked --profile plugin --package spank-parallax --target-dir $(PLUGIN_TARGET) -- -D warnings
	$(CARGO) clippy --locked --profile plugin-step --package spank-parallax-step --target-dir $(PLUGIN_TARGET) \
		-- -D warnings

install:
	install -D -m 0755 target/release/parallax $(DESTDIR)$(PREFIX)/bin/parallax
	install -D -m 0755 target/release/parallax-agent $(DESTDIR)$(PREFIX)/sbin/parallax-agent
	install -D -m 0755 target/release/parallax-launch $(DESTDIR)$(PREFIX)/libexec/parallax/parallax-launch
	install -D -m 0755 target/release/parallax-mount-program \
		$(DESTDIR)$(PREFIX)/libexec/parallax/parallax-mount-program
	install -D -m 0644 $(PLUGIN_TARGET)/plugin/libspank_parallax.so \
		$(DESTDIR)$(PREFIX)/lib/parallax/spank_parallax.so
	install -D -m 0644 $(PLUGIN_TARGET)/plugin-step/libspank_parallax_step.so \
		$(DESTDIR)$(PREFIX)/lib/parallax/spank_parallax_step.so
	install -D -m 0644 etc/parallax-agent.service $(DESTDIR)$(UNITDIR)/parallax-agent.service
	install -D -m 0644 etc/parallax-agent.socket $(DESTDIR)$(UNITDIR)/parallax-agent.socket
	install -D -m 0755 etc/epilog.sh $(DESTDIR)$(PREFIX)/share/doc/parallax/epilog.sh
	install -D -m 0644 etc/parallax.toml $(DESTDIR)$(PREFIX)/share/doc/parallax/parallax.toml
	install -D -m 0644 etc/plugstack.conf $(DESTDIR)$(PREFIX)/share/doc/parallax/plugstack.conf
	install -D -m 0644 README.md $(DESTDIR)$(PREFIX)/share/doc/parallax/README.md
	@test -e $(DESTDIR)$(SYSCONFDIR)/parallax/parallax.toml || \
		install -D -m 0644 etc/parallax.toml $(DESTDIR)$(SYSCONFDIR)/parallax/parallax.toml

clean:
	$(CARGO) clean
