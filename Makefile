# Parallax. `make help` says what there is.

CARGO ?= cargo
# Where Slurm's headers are (slurm/spank.h); the plugin fits the Slurm release they are of.
SLURM_INCLUDE ?= /usr/include
DESTDIR ?=
PREFIX ?= /usr
SYSCONFDIR ?= /etc
UNITDIR ?= $(PREFIX)/lib/systemd/system
MANDIR ?= $(PREFIX)/share/man
BASHCOMPDIR ?= $(PREFIX)/share/bash-completion/completions
ZSHCOMPDIR ?= $(PREFIX)/share/zsh/site-functions
FISHCOMPDIR ?= $(PREFIX)/share/fish/vendor_completions.d
# The plugin has a target directory of its own: what it is built from depends on Slurm's headers.
PLUGIN_TARGET = target/plugin
# All but the plugin's crates, which need Slurm's headers.
WITHOUT_PLUGIN = --workspace --exclude spank-parallax --exclude spank-parallax-step
# The programs that are not built with the others: the plugin, the launcher, and those of the tests.
NOT_OF_RELEASE = $(foreach crate,parallax-launcher parallax-manual spank-parallax spank-parallax-step integration-tests \
	parallax-bench parallax-soak,--exclude $(crate))
# How the launcher is linked: at a fixed address, so that it starts without relocating itself. Empty on systems without a static C library
# (glibc-static on the kin of Red Hat's Linux).
LAUNCHER_LINKING ?= -C target-feature=+crt-static -C relocation-model=static
# What joins containers has no C library: its start is written for these processors. On others each task begins with the launcher.
JOIN ?= $(if $(filter x86_64 aarch64,$(shell uname -m)),parallax-join)
JOIN_LINKING = -C relocation-model=static $(foreach option,-nostdlib -nostartfiles -static,-C link-arg=$(option))
# What `make docs` makes.
DOCS = target/docs

.PHONY: help all products plugin docs test unit-test guest-test bench soak demo install install-programs install-docs dependencies clean
.PHONY: lint lint-format lint-clippy lint-docs lint-shell lint-dependencies lint-minimum-rust

help:
	@echo 'make all        build the products, the plugin (needs Slurm'\''s headers: SLURM_INCLUDE=DIR) and the manual pages'
	@echo 'make products   build the products only'
	@echo 'make plugin     build the plugin only'
	@echo 'make docs       make manual pages, completions and etc/parallax.toml from the code'
	@echo 'make install    install them (DESTDIR, PREFIX, SYSCONFDIR, UNITDIR, ...)'
	@echo 'make test       all tests, on real Slurm clusters of namespaces; as root, installs what it needs by apt;'
	@echo '                T=PATTERN runs those privileged and cluster tests that have PATTERN in their name'
	@echo 'make unit-test  the tests that anyone can run'
	@echo 'make guest-test  the tests of project quotas, fs-verity and NFS, on the kernel of Debian in a virtual machine; as root'
	@echo 'make lint       format, clippy, shellcheck, rustdoc, licenses and versions of crates, the minimum Rust version'
	@echo 'make bench      measure, side by side; as root'
	@echo 'make soak       the large fixed loads, then random steps and faults for ten minutes (SOAK_MINUTES); as root'
	@echo 'make demo       see it work on a cluster of namespaces; as root, installs what it needs by apt'
	@echo 'make dependencies  install what building, testing and linting need; as root, by apt'
	@echo 'make clean      remove what cargo built'

all: products plugin docs

# Each task of a step begins with the launcher: without a dynamic linker it starts in a part of the time. It asks the user database
# nothing, for which glibc needs shared objects.
products:
	$(CARGO) build --release --locked --bins --workspace $(NOT_OF_RELEASE)
	$(CARGO) rustc --profile launcher --locked --package parallax-launcher --bin parallax-launch -- $(LAUNCHER_LINKING)
ifneq ($(JOIN),)
	$(CARGO) rustc --profile join --locked --package parallax-join --features program --bin parallax-join -- $(JOIN_LINKING)
endif

# Its part for steps with an image has a profile of its own: see Cargo.toml.
plugin: export BINDGEN_EXTRA_CLANG_ARGS = -I$(SLURM_INCLUDE)
plugin:
	$(CARGO) build --profile plugin --locked --package spank-parallax --target-dir $(PLUGIN_TARGET)
	$(CARGO) build --profile plugin-step --locked --package spank-parallax-step --target-dir $(PLUGIN_TARGET)

# The example configuration is part of the repository; a test says when it is stale.
docs:
	$(CARGO) run --release --locked --quiet --package parallax-manual -- $(DOCS)
	@cmp --silent $(DOCS)/parallax.toml etc/parallax.toml || cp $(DOCS)/parallax.toml etc/parallax.toml

dependencies:
	tests/install-dependencies

unit-test:
	$(CARGO) test --locked --quiet --lib --bins $(WITHOUT_PLUGIN) \
		--exclude integration-tests --exclude parallax-bench --exclude parallax-soak

# Unit tests first, for everyone; then those that need root and say so. With T=PATTERN only the latter, by name.
T ?=
test: dependencies
ifeq ($(T),)
	$(MAKE) unit-test
	$(CARGO) test --locked --quiet --package integration-tests --package parallax-bench --package parallax-soak --lib
endif
	$(CARGO) test --locked --package integration-tests --test integration -- $(T)

# Not part of `make test`: the machine is emulated. T=PATTERN as above.
guest-test: dependencies
	$(CARGO) build --locked --package parallax-migrate-cli --package parallax-agent --package parallax-launcher
	program=$$($(CARGO) test --locked --no-run --message-format=json --package integration-tests --test guest | \
		jq --raw-output 'select(.executable != null and .target.name == "guest").executable') && \
		tests/guest/guest run "$$program" $(T)

bench: dependencies
	$(CARGO) run --locked --release --quiet --package parallax-bench -- $(BENCH_ARGS)

# The fixed loads of the test suite, at full size.
LOADS = cluster::faults::load cluster::daemon::cost::many_leases cluster::calls::thousands cluster::store::killed \
	cluster::fidelity::many

# SOAK_MINUTES says how long, SOAK_ARGS='--seed=…' repeats the choices of an earlier one.
soak: dependencies
	set -e; for load in $(LOADS); do \
		PARALLAX_TEST_LOAD=large $(CARGO) test --locked --quiet --package integration-tests --test integration -- "$$load"; \
	done
	$(CARGO) run --locked --quiet --package parallax-soak -- $(SOAK_ARGS)

demo: dependencies
	tests/demo

# The plugin's crates need Slurm's headers. A machine without Slurm gets them with the root file system of the test nodes.
ROOTFS_INCLUDE = target/cluster/rootfs-trixie/usr/include
LINT_INCLUDE = $(if $(wildcard $(SLURM_INCLUDE)/slurm/spank.h),$(SLURM_INCLUDE),$(CURDIR)/$(ROOTFS_INCLUDE))
LINT_HEADERS = $(LINT_INCLUDE)/slurm/spank.h

$(CURDIR)/$(ROOTFS_INCLUDE)/slurm/spank.h:
	tests/cluster/cluster build-rootfs trixie

lint: lint-format lint-shell lint-dependencies lint-clippy lint-docs lint-minimum-rust

lint-format:
	$(CARGO) fmt --all --check

lint-shell:
	tests/lint/shell

lint-dependencies:
	tests/lint/dependencies

lint-clippy lint-docs: export BINDGEN_EXTRA_CLANG_ARGS = -I$(LINT_INCLUDE)

lint-clippy: $(LINT_HEADERS)
	$(CARGO) clippy --locked $(WITHOUT_PLUGIN) --all-targets -- -D warnings
ifneq ($(JOIN),)
	$(CARGO) clippy --locked --profile join --package parallax-join --features program --bin parallax-join -- -D warnings
endif
	$(CARGO) clippy --locked --profile plugin --package spank-parallax --target-dir $(PLUGIN_TARGET) -- -D warnings
	$(CARGO) clippy --locked --profile plugin-step --package spank-parallax-step --target-dir $(PLUGIN_TARGET) \
		-- -D warnings

# Private items too: their comments are what developers read.
lint-docs: export RUSTDOCFLAGS = -D warnings -A rustdoc::private_intra_doc_links
lint-docs: $(LINT_HEADERS)
	$(CARGO) doc --locked $(WITHOUT_PLUGIN) --no-deps --document-private-items
ifneq ($(JOIN),)
	$(CARGO) rustdoc --locked --profile join --package parallax-join --features program --bin parallax-join -- --document-private-items
endif
	$(CARGO) doc --locked --package spank-parallax --package spank-parallax-step --no-deps --document-private-items \
		--target-dir $(PLUGIN_TARGET)

lint-minimum-rust:
	tests/lint/minimum-rust

install: install-programs install-docs

install-programs:
	install -D -m 0755 target/release/parallax $(DESTDIR)$(PREFIX)/bin/parallax
	install -D -m 0755 target/release/parallax-agent $(DESTDIR)$(PREFIX)/sbin/parallax-agent
	install -D -m 0755 target/release/parallax-lazy $(DESTDIR)$(PREFIX)/sbin/parallax-lazy
	install -D -m 0755 target/launcher/parallax-launch $(DESTDIR)$(PREFIX)/libexec/parallax/parallax-launch
ifneq ($(JOIN),)
	install -D -m 0755 target/join/parallax-join $(DESTDIR)$(PREFIX)/libexec/parallax/parallax-join
endif
	install -D -m 0755 target/release/parallax-mount-program \
		$(DESTDIR)$(PREFIX)/libexec/parallax/parallax-mount-program
	install -D -m 0644 $(PLUGIN_TARGET)/plugin/libspank_parallax.so \
		$(DESTDIR)$(PREFIX)/lib/parallax/spank_parallax.so
	install -D -m 0644 $(PLUGIN_TARGET)/plugin-step/libspank_parallax_step.so \
		$(DESTDIR)$(PREFIX)/lib/parallax/spank_parallax_step.so
	install -D -m 0644 etc/parallax-agent.service $(DESTDIR)$(UNITDIR)/parallax-agent.service
	install -D -m 0644 etc/parallax-agent.socket $(DESTDIR)$(UNITDIR)/parallax-agent.socket
	install -D -m 0644 etc/parallax-lazy.service $(DESTDIR)$(UNITDIR)/parallax-lazy.service
	install -D -m 0644 etc/parallax-lazy.socket $(DESTDIR)$(UNITDIR)/parallax-lazy.socket
	install -D -m 0755 etc/epilog.sh $(DESTDIR)$(PREFIX)/share/doc/parallax/epilog.sh
	install -D -m 0644 etc/parallax.toml $(DESTDIR)$(PREFIX)/share/doc/parallax/parallax.toml
	install -D -m 0644 etc/plugstack.conf $(DESTDIR)$(PREFIX)/share/doc/parallax/plugstack.conf
	install -D -m 0644 README.md $(DESTDIR)$(PREFIX)/share/doc/parallax/README.md
	@test -e $(DESTDIR)$(SYSCONFDIR)/parallax/parallax.toml || \
		install -D -m 0644 etc/parallax.toml $(DESTDIR)$(SYSCONFDIR)/parallax/parallax.toml

install-docs:
	for page in $(DOCS)/man/*.[158] packaging/man/*.[158]; do \
		install -D -m 0644 $$page $(DESTDIR)$(MANDIR)/man$${page##*.}/$${page##*/} || exit; \
	done
	for file in $(DOCS)/bash/*; do install -D -m 0644 $$file $(DESTDIR)$(BASHCOMPDIR)/$${file##*/} || exit; done
	for file in $(DOCS)/zsh/*; do install -D -m 0644 $$file $(DESTDIR)$(ZSHCOMPDIR)/$${file##*/} || exit; done
	for file in $(DOCS)/fish/*; do install -D -m 0644 $$file $(DESTDIR)$(FISHCOMPDIR)/$${file##*/} || exit; done

clean:
	$(CARGO) clean
