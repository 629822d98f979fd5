# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# `make demo` shows it, `make check` proves it, `make bench` measures it. Meson does the work.
BUILD ?= build
TOOL = $(BUILD)/tools/holdfast

all: $(BUILD)/build.ninja
	ninja -C $(BUILD)

demo:
	@sh scripts/need.sh demo
	@$(MAKE) --no-print-directory all
	$(TOOL) perf --seconds 8
	$(TOOL) perf --seconds 4 --pattern recycle
	$(TOOL) perf --seconds 3 --op send
	$(TOOL) perf --seconds 3 --op write
	$(TOOL) perf --seconds 3 --op read
	$(TOOL) perf --seconds 2 --op revoke
	$(TOOL) walk
	$(TOOL) torture --seconds 15

check:
	@sh scripts/need.sh check
	@sh scripts/check.sh $(BUILD)

# Two minutes, for who edits.
check-quick:
	@sh scripts/need.sh check
	@sh scripts/check.sh --quick $(BUILD)

# Everything: the model, longer fuzzing, Linux 6.1, more of two guests, and the host part on the other Debian.
check-full:
	@sh scripts/need.sh check
	@sh scripts/need.sh full
	@sh scripts/check.sh --full $(BUILD)

# What takes a kernel of its own, in QEMU: docs and options in tests/guest. make check-guest GUEST="-s 6.1"
check-guest:
	@sh scripts/need.sh guest
	@sh scripts/check.sh --guest $(BUILD) $(GUEST)

# Two of them, joined by a network.
check-two:
	@sh scripts/need.sh guest
	@sh scripts/check.sh --two $(BUILD) $(GUEST)

# make fuzz SECONDS=600: so long for each target.
fuzz:
	@sh scripts/need.sh check
	@sh scripts/fuzz.sh $(or $(SECONDS),60) $(BUILD)-fuzz

# make bench BENCH=--quick: 10 seconds instead of 75.
bench:
	@sh scripts/need.sh bench
	@$(MAKE) --no-print-directory all
	sh bench/run.sh $(BUILD)/bench $(BENCH)

# An hour of torture over all threads the machine has, in exact mode. Not part of check.
soak: all
	$(TOOL) torture --seconds 3600 --threads 16

install: all
	meson install -C $(BUILD)

clean:
	rm -rf $(BUILD) $(BUILD)-asan $(BUILD)-tsan $(BUILD)-fuzz

$(BUILD)/build.ninja:
	meson setup $(BUILD)

.PHONY: all demo check check-quick check-full check-guest check-two fuzz bench soak install clean
