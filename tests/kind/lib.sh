# Sourced by the scripts beside it: where things are, Podman's configuration, and what the machine must bring.
# shellcheck shell=bash disable=SC2034  # variables are for those who source this

here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/dsort-operator/kind
cluster=dsort
state=$cache/cluster # of the running cluster: kubeconfig, shared volume, engine, and what the machine was like before
export KUBECONFIG=$state/kubeconfig

# The version that go.mod pins a module to.
version_of() { awk -v module="$1" '$1 == module && $2 ~ /^v/ { print $2; exit }' "$here/go.mod"; }

# What the programs and the images are made of. Their names in the cache end in a key of it, so that an edit elsewhere
# builds nothing again.
# shellcheck disable=SC2054  # commas on purpose
go_flags=(-trimpath -buildvcs=false -tags no_btrfs,no_devmapper,no_zfs)
# bookworm's systemd is Debian's last that runs on cgroup v1.
# shellcheck disable=SC2054
node_debian=(bookworm systemd,iptables,nftables,conntrack,iproute2,ethtool,util-linux,mount,kmod,procps,jq,ca-certificates,runc,containernetworking-plugins)
# shellcheck disable=SC2054
base_debian=(trixie python3,python3-venv,ca-certificates)
key_of() { sha256sum | cut -c1-12; }
bin_key=$( (cd "$here" && cat go.mod go.sum pause/main.go coredns/main.go && echo "${go_flags[@]}") | key_of)-$(uname -m)
bin=$cache/$bin_key/bin
node_image=localhost/dsort-kind-node:$(version_of k8s.io/kubernetes)-$( (cd "$here" && cat Containerfile.* node/* && echo "$bin_key" "${node_debian[@]}") | key_of)
node_debian_image=localhost/dsort-kind-debian:$(echo "${node_debian[@]}" | key_of)
authorities=/etc/ssl/certs/ca-certificates.crt
base_image=localhost/dsort-base:$(echo "${base_debian[@]}" "$(cat $authorities 2> /dev/null)" | key_of)

say() { echo "kind: $*" >&2; }
# What `set -e` ends says where: some commands fail without a word.
trap 'say "$(basename "$0") stopped at line $LINENO: $BASH_COMMAND"' ERR
fail() { say "$*"; exit 1; }

# need COMMAND=PACKAGE...: install the Debian packages of commands that are not there, where we may.
need() {
  local pair missing=()
  for pair in "$@"; do command -v "${pair%%=*}" > /dev/null || missing+=("${pair#*=}"); done
  [ ${#missing[@]} = 0 ] || sh "$here/../../scripts/apt.sh" "${missing[@]}" || fail "missing: apt-get install ${missing[*]}"
}

# Podman with all of its state under the cache, so that the machine's own images, networks and settings are not touched.
own_podman() {
  need podman=podman runc=runc debootstrap=debootstrap iptables=iptables jq=jq unshare=util-linux \
    /usr/lib/podman/netavark=netavark /usr/lib/podman/aardvark-dns=aardvark-dns
  local home=$cache/podman
  mkdir -p "$home/wrap" "$home/modules"
  cat > "$home/containers.conf" <<X
[containers]
# Podman asks for more than a machine without CAP_SYS_RESOURCE may have.
default_ulimits = ["nofile=10000:10000", "nproc=9000:9000"]
pids_limit = 0
log_driver = "k8s-file"
[engine]
runtime = "runc"             # crun refuses a hybrid cgroup hierarchy
cgroup_manager = "cgroupfs"  # there may be no systemd on this machine
events_logger = "file"
lock_type = "file"           # the other kind is one for the whole machine
# A node has nothing to say goodbye to; and one that ends just when Podman is about to kill it makes \`podman rm -f\` fail.
stop_timeout = 0
static_dir = "$home/static"
tmp_dir = "$home/tmp"
volume_path = "$home/volumes"
[network]
network_backend = "netavark"
network_config_dir = "$home/networks"
X
  cat > "$home/storage.conf" <<X
[storage]
driver = "overlay"
graphroot = "$home/graph"
runroot = "$home/run"
X
  export CONTAINERS_CONF=$home/containers.conf CONTAINERS_STORAGE_CONF=$home/storage.conf
  if [ ! -d /lib/modules ]; then # kind mounts it into every node; where the kernel has no modules an empty folder stands in
    # shellcheck disable=SC2016  # expands when it runs
    printf '#!/bin/bash\nexec %q "${@/#\\/lib\\/modules:/%s/modules:}"\n' "$(PATH=${PATH//"$home/wrap:"/} command -v podman)" "$home" > "$home/wrap/podman"
    chmod +x "$home/wrap/podman"
    case $PATH in "$home/wrap:"*) ;; *) export PATH=$home/wrap:$PATH ;; esac
  fi
}

# What own_podman leaves mounted when nothing runs.
unmount() {
  awk -v cache="$cache/podman" 'index($2, cache) == 1 { print $2 }' /proc/self/mounts | tac | while read -r mount; do umount "$mount"; done
}

# Where the cluster runs: `docker` or `podman` with the published node image, or `built`: podman with one built here.
use_engine() {
  case $1 in
    docker) unset KIND_EXPERIMENTAL_PROVIDER ;;
    podman | built)
      export KIND_EXPERIMENTAL_PROVIDER=podman
      [ "$(id -u)" != 0 ] || own_podman # without root it is the user's own
      ;;
    *) fail "no such engine: $1 (docker, podman or built)" ;;
  esac
}

# What a cluster brings to a machine and a `down` must take away again, one per line. Kubelets set kernel parameters of the
# whole machine; Podman and kind leave the rest.
settings=(vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys kernel.keys.root_maxbytes
  net.ipv4.ip_forward net.ipv6.conf.all.forwarding)
survey() (
  set +e +o pipefail
  local each
  for each in "${settings[@]}"; do echo "setting $each=$(sysctl -n "$each" 2> /dev/null)"; done
  awk -v cache="$cache" 'index($2, cache) == 1 || $2 ~ "^/run/netns|/containers/|kubelet" { print "mount " $2 }' /proc/self/mounts
  find /run/netns -mindepth 1 2> /dev/null | sed 's/^/network namespace /'
  find /sys/fs/cgroup -type d 2> /dev/null | grep -E 'libpod|docker|kube|cri-|containerd' | sed 's/^/cgroup /'
  find /sys/class/net -mindepth 1 -printf '%f\n' | grep -E '^(veth|podman|br-|cni)' | sed 's/^/network interface /'
  for each in iptables ip6tables; do
    { command -v $each-save > /dev/null && $each-save | grep -E '^(:.* -|-A)' | sed -e 's/ \[[0-9:]*\]$//' -e "s/^/$each /"; } 2> /dev/null
  done
  for each in /proc/[0-9]*; do
    if grep -qsE 'libpod|kubepods|kubelet' "$each/cgroup" || tr '\0' ' ' 2> /dev/null < "$each/cmdline" | grep -qF "$cache/podman/"; then
      echo "process $(basename "$each") $(tr '\0' ' ' 2> /dev/null < "$each/cmdline" | cut -c1-80)"
    fi
  done
) 2> /dev/null
