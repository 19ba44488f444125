# The server's own tree becomes the root of a private mount namespace, with every other top-level folder of this
# machine bound in: data, plugins and checkouts keep their paths, and nothing is left behind when the command ends.
root=$here/root
if [ "$(id -u)" != 0 ]; then
    echo "enter: a mount namespace for $root needs root: run this as root" >&2
    exit 1
fi
exec unshare --mount --propagation private sh -c '
    root=$1
    shift
    for dir in /*; do
        case $dir in
        /bin | /sbin | /lib* | /usr | /etc | /boot | /lost+found) continue ;;
        esac
        if [ -L "$dir" ] || [ ! -d "$dir" ]; then continue; fi
        mkdir -p "$root$dir"
        mount --rbind "$dir" "$root$dir"
    done
    exec chroot "$root" "$@"
' sh "$root" "$@"
