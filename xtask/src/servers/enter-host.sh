# The server runs on this machine's own libraries, with those that it brings along before them.
exec env LD_LIBRARY_PATH="$here/lib" "$@"
