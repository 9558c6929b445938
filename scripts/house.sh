# Sourced: where the environments and caches of a tree live.

# house TREE: print the folder; two trees never share one, and the tree itself holds nothing of it.
house() {
    printf '%s/dsort-operator/%s\n' "${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}" \
        "$(printf '%s' "$1" | sha256sum | cut -c1-12)"
}
