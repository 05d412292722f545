#!/bin/sh
# Builds a FLASK policy for Xen: the stock policy of the given source tree plus the module `tsmc` of this directory. From
# the stock policy two things are taken away: what `tsmc lockdown` must be able to take from dom0 (our module gives it back
# until then), and the module `nomigrate` (ours declares its type, with fewer rights for dom0).
#
#	build.sh XEN_SOURCE OUTPUT [MODULE.te ...]	also writes OUTPUT.conf, the policy's whole text
#
# XEN_SOURCE is only read, and needs no configure. Further modules (an operator's guest types, say) are built in after
# ours; an interface file of the same name beside a module is taken along. Needs m4, make and checkpolicy.
set -eu

usage() {
	echo "usage: $0 XEN_SOURCE OUTPUT [MODULE.te ...]" >&2
	exit 2
}
[ $# -ge 2 ] || usage
here=$(cd "$(dirname "$0")" && pwd)
source=$1
output=$2
shift 2
for needed in tools/flask/policy/Makefile.common xen/xsm/flask/policy/access_vectors; do
	[ -f "$source/$needed" ] || { echo "$0: $source is no Xen source tree: $needed is missing" >&2; exit 1; }
done

# The policy's makefile finds the hypervisor's classes by a relative path: keep the shape of the tree.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
mkdir -p "$work/tools/flask" "$work/xen/xsm/flask" "$work/out"
cp -r "$source/tools/flask/policy" "$work/tools/flask/"
cp -r "$source/xen/xsm/flask/policy" "$work/xen/xsm/flask/"

modules=$work/tools/flask/policy/modules

# What dom0 loses with the lockdown: the same words as in `tsmc.te`, there under `if (!tsmc_locked)`.
for word in load_policy setenforce setbool setsecparam add_ocontext del_ocontext \
	kexec debug tbufcontrol privprofile nonprivprofile microcode livepatch_op pmu_ctrl setdebugging; do
	grep -qw "$word" "$modules/dom0.te" ||
		{ echo "$0: dom0.te does not mention $word: this source tree's policy is not the one we know" >&2; exit 1; }
	sed -i "/^#/! s/\\b$word\\b//g" "$modules/dom0.te"
done
# Rules that have nothing left to allow.
sed -i -E '/^(allow|auditallow) .*:[a-z0-9_]+ *(\{ *\})? *;/d' "$modules/dom0.te"
sed -i 's/^nomigrate = on$/nomigrate = off/' "$modules/modules.conf"

add_module() {
	name=$(basename "$1" .te)
	cp "$1" "$modules/"
	[ ! -f "${1%.te}.if" ] || cp "${1%.te}.if" "$modules/"
	printf '%s = on\n' "$name" >> "$modules/modules.conf"
}
add_module "$here/tsmc.te"
for module in "$@"; do
	add_module "$module"
done

log=$work/log
if ! make -C "$work/tools/flask/policy" -f Makefile.common FLASK_BUILD_DIR="$work/out" XEN_FULLVERSION=tsmc \
	> "$log" 2>&1; then
	cat "$log" >&2
	echo "$0: the policy does not build" >&2
	exit 1
fi
mkdir -p "$(dirname "$output")"
# The text that was compiled, for audits.
cp "$work/out/policy.conf" "$output.conf"
cp "$work/out/xenpolicy-tsmc" "$output"
