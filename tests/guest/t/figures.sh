# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# What it costs, in figures: run.sh -l figures.list. Not in tests.list: nothing here can be wrong but the time.
# Validated hits (kmod, uffd) against one that is not (unchecked, or manual, where the program tells by itself), and what
# a munmap costs of a page that nobody secured and of one that is secured; without the module, and with it.
uname -r
hit_test manual uffd || exit 1
modprobe holdfast || exit 1
hit_test kmod || exit 1
kmod_test costs | grep '^# [a-z]' | grep -v failed
rmmod holdfast
