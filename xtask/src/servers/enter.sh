#!/bin/sh
# Usage: enter COMMAND [ARG...]
# Runs COMMAND where this server feels at home, under the caller's process id.
set -eu
here=$(dirname "$(readlink -f "$0")")
